"""The local place: cache nodes as subprocesses of this one, resized through their admin API."""

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from kvtide_cachenode.contract.client import NodeClient, NodeError
from kvtide_cachenode.contract.messages import CapacityRequest, Desired
from kvtide_cachenode.contract.sizing import PAGE_BYTES
from kvtide_operator.act.parent import end_with_parent
from kvtide_operator.act.place import Resized
from kvtide_operator.api.status import MAX_DECISIONS, DecisionStatus
from kvtide_operator.decide.policy import Verdict
from kvtide_operator.decide.target import Target, idle_timeouts

START_TIMEOUT_S = 15.0
"""How long a node may take until it serves; after that the start has failed."""
STOP_TIMEOUT_S = 5.0
"""How long a node may take to stop after SIGTERM; after that it is killed."""
FIRST_RESTART_S, LONGEST_RESTART_S = 1.0, 60.0
"""How long a node that ended waits until it is started again: doubled each time, up to a minute."""
STEADY_S = 60.0
"""A node that ran for so long begins with the shortest wait again."""


class PlaceError(RuntimeError):
    """The nodes could not be started; the message says which and why."""


@dataclass(slots=True)
class _Node:
    name: str
    process: asyncio.subprocess.Process
    address: str
    admin: str
    client: NodeClient
    log: IO[bytes]
    started_s: float


class LocalPlace:
    """Starts nodes, resizes them and leaves none behind, whatever becomes of this process.

    Args:
        replicas: how many nodes.
        target: what they hold together at first.
        ssd_class: of their SSD tier, in a temporary directory of this machine; None for none.
        options: what else a node is told at its start, where its SSD is of that class.
        say: takes a sentence for the user.
    """

    approved = False
    """Nobody approves plans here: in mode Advise the loop only says what it would do."""

    def __init__(
        self,
        replicas: int,
        target: Target,
        *,
        ssd_class: str | None,
        options: Callable[[str | None], Sequence[str]],
        say: Callable[[str], None],
    ) -> None:
        self._replicas = replicas
        self._has_ssd = ssd_class is not None
        self._options = options
        self._say = say
        self._nodes: list[_Node] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._folder: Path | None = None
        self._generation = 0
        self.target = target
        self.ssd_class = ssd_class
        self.decisions: deque[DecisionStatus] = deque(maxlen=MAX_DECISIONS)

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="kvtide-"))
        try:
            for number in range(self._replicas):
                self._nodes.append(await self._start(f"node-{number}"))
            await self.resize(self.target)
            self._keepers = [asyncio.create_task(self._keep(node)) for node in self._nodes]
        except BaseException:
            await self._stop_all()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop_all()

    @property
    def clients(self) -> dict[str, NodeClient]:
        """The admin client of every node."""
        return {node.name: node.client for node in self._nodes}

    @property
    def addresses(self) -> list[str]:
        """Where each node serves the Redis protocol, as ``HOST:PORT``."""
        return [node.address for node in self._nodes]

    async def act(self, verdict: Verdict, decision: DecisionStatus) -> list[Resized]:
        """Follow a verdict at once."""
        if verdict.action == "Hold":
            return []
        self.ssd_class = verdict.ssd_class or self.ssd_class
        self.decisions.appendleft(decision)
        return await self.resize(verdict.target)

    async def resize(self, target: Target) -> list[Resized]:
        """Bring every node to its share of ``target``. Nodes that refuse do not stop the others."""
        self.target = target
        self._generation += 1
        return list(await asyncio.gather(*(_tell(node, self._document()) for node in self._nodes)))

    def _document(self) -> Desired:
        target = self.target
        capacity = CapacityRequest(dram=_share(target.dram_bytes, self._replicas))
        ttl_s = None
        if self._has_ssd:
            capacity = CapacityRequest(capacity.dram, _share(target.ssd_bytes, self._replicas))
            ttl_s = idle_timeouts(target)
        return Desired(term=0, generation=self._generation, capacity=capacity, ttl_s=ttl_s)

    async def _keep(self, node: _Node) -> None:
        """Start a node again whenever it ends, at its addresses and on its SSD, ever later."""
        wait_s = FIRST_RESTART_S
        while True:
            code = await node.process.wait()
            if asyncio.get_running_loop().time() - node.started_s > STEADY_S:
                wait_s = FIRST_RESTART_S
            self._say(f"{node.name} ended with {_ending(code)}; it starts again in {wait_s:g} s")
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_RESTART_S)
            try:
                await self._start_again(node)
            except (PlaceError, OSError) as error:
                self._say(str(error))
            except Exception as error:  # noqa: BLE001 - a defect must not leave the node down in silence
                self._say(f"{node.name} did not start again: {error!r}")

    async def _start_again(self, node: _Node) -> None:
        again = await self._start(node.name, node.address, node.admin)
        node.process, node.started_s = again.process, again.started_s
        node.log.close()
        node.log = again.log
        await again.client.close()
        told = await _tell(node, self._document())
        self._say(f"{node.name} serves again" + (f", but {told.problem}" if told.problem else ""))

    async def _start(self, name: str, listen: str = "127.0.0.1:0", admin: str = "127.0.0.1:0") -> _Node:
        assert self._folder is not None, "use it in `async with`"
        log = tempfile.TemporaryFile()  # noqa: SIM115 - the node writes to it as long as it lives
        ssd = []
        if self._has_ssd:
            ssd = [
                "--ssd",
                str(_share(self.target.ssd_bytes, self._replicas)),
                "--ssd-path",
                str(self._folder / name),
            ]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kvtide_cachenode", "serve",
            "--listen", listen,
            "--admin", admin,
            "--dram", str(_share(self.target.dram_bytes, self._replicas)),
            *ssd,
            *self._options(self.ssd_class),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
            preexec_fn=end_with_parent,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_S)
            serving = json.loads(line)
        except (TimeoutError, ValueError):
            raise PlaceError(f"{name} did not start: {await _last_words(process, log)}") from None
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            log.close()
            raise
        return _Node(
            name,
            process,
            serving["listen"],
            serving["admin"],
            NodeClient(f"http://{serving['admin']}"),
            log,
            asyncio.get_running_loop().time(),
        )

    async def _stop_all(self) -> None:
        keepers, self._keepers = self._keepers, []
        for keeper in keepers:
            keeper.cancel()
        ended = await asyncio.gather(*keepers, return_exceptions=True)
        nodes, self._nodes = self._nodes, []
        await asyncio.gather(*(_stop(node) for node in nodes))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"code {code}"


def _share(total_bytes: int, replicas: int) -> int:
    return total_bytes // replicas // PAGE_BYTES * PAGE_BYTES


async def _tell(node: _Node, document: Desired) -> Resized:
    try:
        reply = await node.client.set_desired(document)
    except NodeError as error:
        return Resized(node.name, None, str(error))
    return Resized(node.name, reply.tiers["dram"].capacity_bytes)


async def _last_words(process: asyncio.subprocess.Process, log: IO[bytes]) -> str:
    await _end(process)
    with log:
        log.seek(0)
        said = log.read().decode(errors="replace").strip().removeprefix("Error: ")
    return said or f"it ended with code {process.returncode} and said nothing"


async def _stop(node: _Node) -> None:
    await node.client.close()
    await _end(node.process)
    node.log.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
