"""What happens to a container besides its node: a SIGKILL, and another process that holds memory."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from e2e.kubectl import until
from e2e.node_pod import CONTAINER, READY_S, NodePod

HOG: Final = "import sys; held = b'x' * int(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


async def kill(node: NodePod) -> None:
    """SIGKILL to a node that is its container's first process; returns when it was started again and answers.

    Within its container nobody can do that: this needs its machine to be this one, and is skipped elsewhere.
    """
    before = await node.container()
    assert before.container_id is not None, "it runs"
    os.kill(_first_process(before.container_id.rpartition("/")[2]), signal.SIGKILL)

    async def restarted() -> bool:
        now = await node.container()
        return now.restarts > before.restarts and now.container_id not in (None, before.container_id)

    await until(f"{node.name} to be started again", restarted, READY_S)
    await node.status()


def _first_process(container_id: str) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            status = (folder / "status").read_text()
            spaces = next(line.split() for line in status.splitlines() if line.startswith("NSpid:"))
            if spaces[-1] == "1" and container_id in (folder / "cgroup").read_text():
                return int(folder.name)
    pytest.skip("the processes of the cluster's containers are not on this machine")


@asynccontextmanager
async def hog(node: NodePod, size_bytes: int) -> AsyncIterator[None]:
    """Hold memory in the node's container, which counts towards its limit."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "kubectl", "-n", node.namespace, "exec", "-i", node.name, "--container", CONTAINER, "--",
        "python3", "-c", HOG, str(size_bytes), stdin=pipe, stdout=pipe,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_S):
            assert await process.stdout.readline() == b"held\n"
        yield
    finally:
        process.stdin.close()
        await process.wait()
