"""The operator as a process: it gets ready on a real API server, and ends as it is asked to."""

import signal
from pathlib import Path

import aiohttp
import pytest

from e2e.kubectl import get
from e2e.operator_process import operator

pytestmark = pytest.mark.timeout(200)


async def test_gets_ready_leads_and_stops(definitions: None, namespace: str, tmp_path: Path) -> None:
    async with operator(tmp_path, namespace, identity="only") as running:
        assert await running.is_ready()
        lease = await get("lease", "kvtide-operator", namespace)
        assert lease["spec"]["holderIdentity"].startswith("only")
        async with aiohttp.ClientSession() as http, http.get(f"{running.metrics}/metrics") as answer:
            assert "kvtide_operator_" in await answer.text()
        assert await running.kill(signal.SIGTERM) == 0
    released = await get("lease", "kvtide-operator", namespace)
    assert not released["spec"].get("holderIdentity")
