"""The API server itself is ended in the middle of a resize, and started again with what its etcd has."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Final

import pytest

from e2e.kube import control_plane, daemons
from e2e.kube.places import KUBECONFIG
from e2e.kubectl import until
from e2e.live_cache import MIB, start_cache
from e2e.operator_process import operator
from e2e.process_faults import has_shrunk
from e2e.resize_faults import filled, kept, outcome
from e2e.scenarios import report

API_SERVER: Final = "kube-apiserver"
AWAY_S: Final = 5.0

pytestmark = pytest.mark.timeout(280)


async def test_the_api_server_is_restarted_in_a_grow_and_in_a_shrink(
    definitions: None, namespace: str, node_image: str, tmp_path: Path
) -> None:
    if os.environ["KUBECONFIG"] != str(KUBECONFIG):
        pytest.skip("the API server of a cluster that is not ours stays as it is")
    async with operator(tmp_path, namespace) as running:
        cache = await start_cache(namespace, node_image, nodes=2)
        await filled(cache)
        await cache.resize("384Mi")
        await cache.asked_for(more_than=300 * MIB)
        began_s = await restarted(signal.SIGKILL)
        await cache.settled(384 * MIB, 90)
        report("API server killed in a grow: until at rest, once it is back", began_s)
        assert "in effect" in await outcome(cache)
        await cache.check_sizes(384 * MIB)
        await kept(cache)

        await cache.resize("128Mi")
        await until("a node to shrink", lambda: has_shrunk(cache, 64 * MIB), 30)
        began_s = await restarted(signal.SIGTERM)
        await cache.settled(128 * MIB, 90)
        report("API server restarted in a shrink: until at rest, once it is back", began_s)
        await cache.check_sizes(128 * MIB)
        await kept(cache)
        assert running.process.returncode is None, "the operator waited for it"


async def restarted(number: signal.Signals) -> float:
    """End the API server, leave it ended for a while, and start it again; when it said that it is ready."""
    began_s = time.monotonic()
    await asyncio.to_thread(daemons.stop, API_SERVER, number)
    await asyncio.sleep(AWAY_S)
    await asyncio.to_thread(daemons.start_again, API_SERVER)
    await asyncio.to_thread(
        daemons.wait_for, "the API server", control_plane.is_ready, control_plane.READY_S, API_SERVER
    )
    report("API server away", began_s)
    return time.monotonic()
