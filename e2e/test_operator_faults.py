"""Something goes wrong in the middle of a resize: the operator comes to the best end there is, and says so.

At each end the sizes in spec, kubelet, kernel, node and status agree, nobody was killed for memory, and every
entry that was there is still there, as far as the new size can hold it.
"""

from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from e2e.process_faults import (
    api_server_away,
    deleted,
    leader_lost,
    node_killed,
    operator_killed,
    prometheus_down,
)
from e2e.resize_faults import REFUSED_S, edited_again, infeasible, quota, shrink_refused, volume_refused
from e2e.scenarios import Scenario, UnderWay, under_way

SHORT_DEADLINES: Final = f"""
from kvtide_operator.decide import converge
converge.converge.__kwdefaults__["deadlines"] = converge.Deadlines(refused_s={REFUSED_S})
"""
SCENARIOS: Final = (
    shrink_refused, operator_killed, leader_lost, api_server_away, prometheus_down, infeasible, quota,
    volume_refused, edited_again, deleted, node_killed,
)  # fmt: skip

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(280)]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def playing(
    request: pytest.FixtureRequest,
    node_image: str,
    definitions: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[UnderWay]:
    folder = tmp_path_factory.mktemp("operator")
    async with under_way(SCENARIOS, request, node_image, folder, first=SHORT_DEADLINES) as tasks:
        yield tasks


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
async def test_fault(playing: UnderWay, scenario: Scenario) -> None:
    await playing[scenario]
