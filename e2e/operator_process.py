"""The operator as a process on this machine, acting on the cluster that KUBECONFIG names."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from tests.ports import free_port

from e2e.kubectl import until

READY_S: Final = 60.0
STOP_S: Final = 30.0
MAIN: Final = "from kvtide_operator.main import main; main(prog_name='kvtide-operator')"


@dataclass(slots=True)
class Operator:
    """A running operator: its process, its log, and where it answers."""

    process: asyncio.subprocess.Process
    log: Path
    probes: str
    metrics: str

    async def is_ready(self) -> bool:
        """Whether its readiness probe succeeds.

        Raises:
            RuntimeError: it has ended; the message has the end of its log.
        """
        if self.process.returncode is not None:
            tail = self.log.read_text().splitlines()[-20:]
            raise RuntimeError("\n".join([f"the operator ended with {self.process.returncode}", *tail]))
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self.probes}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()


@asynccontextmanager
async def operator(
    folder: Path, *namespaces: str, identity: str = "e2e", first: str = "pass", kubeconfig: Path | None = None
) -> AsyncIterator[Operator]:
    """Start an operator for some namespaces, the first of which has its Lease, and wait until it is ready.

    At the end it is asked to stop. Its log is ``folder``/``identity``.log, which several starts share.

    Args:
        first: a statement that its process executes before anything else.
        kubeconfig: where its API server is; left out, that of KUBECONFIG.

    Raises:
        RuntimeError: it ends by itself.
    """
    probes, metrics = _free_addresses(2)
    log = folder / f"{identity}.log"
    arguments = (
        *(f"--namespace={one}" for one in namespaces), f"--lease-namespace={namespaces[0]}",
        f"--identity={identity}", f"--probes={probes}", f"--metrics={metrics}", "--log-format=text",
    )  # fmt: skip
    environment = os.environ if kubeconfig is None else {**os.environ, "KUBECONFIG": str(kubeconfig)}
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", f"{first}\n{MAIN}", *arguments,
            stdout=output, stderr=output, env=dict(environment),
        )  # fmt: skip
    running = Operator(process, log, f"http://{probes}", f"http://{metrics}")
    try:
        await until(f"{identity} to be ready", running.is_ready, READY_S)
        yield running
    finally:
        await running.kill(signal.SIGTERM)


def _free_addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{free_port()}" for _ in range(count)]
