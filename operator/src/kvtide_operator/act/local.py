"""The local place: cache nodes as subprocesses of this one, resized through their admin API."""

import asyncio
import json
import shutil
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from kvtide_cachenode.client import NodeClient, NodeError
from kvtide_cachenode.messages import CapacityRequest, Desired
from kvtide_operator.act.parent import end_with_parent
from kvtide_operator.api.status import MAX_DECISIONS, DecisionStatus
from kvtide_operator.decide.converge.documents import idle_timeouts
from kvtide_operator.decide.policy import Verdict
from kvtide_operator.decide.steps import Target

START_TIMEOUT_S = 15.0
"""How long a node may take until it serves; after that the start has failed."""
STOP_TIMEOUT_S = 5.0
"""How long a node may take to stop after SIGTERM; after that it is killed."""
PAGE_BYTES = 4096


class PlaceError(RuntimeError):
    """The nodes could not be started; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Resized:
    """How one node answered: what it holds now, or why it refused."""

    node: str
    capacity_bytes: int | None
    problem: str | None = None


@dataclass(slots=True)
class _Node:
    name: str
    process: asyncio.subprocess.Process
    address: str
    client: NodeClient
    log: IO[bytes]


class LocalPlace:
    """Starts nodes, resizes them and leaves none behind, whatever becomes of this process.

    Args:
        replicas: how many nodes.
        target: what they hold together at first.
        ssd_class: of their SSD tier, in a temporary directory of this machine; None for none.
        block_tokens: tokens of a block, for the nodes' traces.
    """

    approved = False
    """Nobody approves plans here: in mode Advise the loop only says what it would do."""

    def __init__(self, replicas: int, target: Target, *, ssd_class: str | None, block_tokens: int) -> None:
        self._replicas = replicas
        self._has_ssd = ssd_class is not None
        self._block_tokens = block_tokens
        self._nodes: list[_Node] = []
        self._folder: Path | None = None
        self._generation = 0
        self.target = target
        self.ssd_class = ssd_class
        self.decisions: deque[DecisionStatus] = deque(maxlen=MAX_DECISIONS)

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="kvtide-"))
        try:
            for number in range(self._replicas):
                self._nodes.append(await self._start(f"node-{number}", self._folder))
            await self.resize(self.target)
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
        capacity = CapacityRequest(dram=_share(target.dram_bytes, self._replicas))
        ttl_s = None
        if self._has_ssd:
            capacity = CapacityRequest(capacity.dram, _share(target.ssd_bytes, self._replicas))
            ttl_s = idle_timeouts(target)
        document = Desired(term=0, generation=self._generation, capacity=capacity, ttl_s=ttl_s)
        return list(await asyncio.gather(*(_tell(node, document) for node in self._nodes)))

    async def _start(self, name: str, folder: Path) -> _Node:
        log = tempfile.TemporaryFile()  # noqa: SIM115 - the node writes to it as long as it lives
        ssd = []
        if self._has_ssd:
            ssd = [
                "--ssd",
                str(_share(self.target.ssd_bytes, self._replicas)),
                "--ssd-path",
                str(folder / name),
            ]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kvtide_cachenode", "serve",
            "--listen", "127.0.0.1:0",
            "--admin", "127.0.0.1:0",
            "--dram", str(_share(self.target.dram_bytes, self._replicas)),
            "--block-tokens", str(self._block_tokens),
            *ssd,
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
        return _Node(name, process, serving["listen"], NodeClient(f"http://{serving['admin']}"), log)

    async def _stop_all(self) -> None:
        nodes, self._nodes = self._nodes, []
        await asyncio.gather(*(_stop(node) for node in nodes))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


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
