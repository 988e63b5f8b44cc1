"""The local place: cache nodes as subprocesses of this one, resized through their admin API."""

import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

from kvtide_cachenode.client import NodeClient, NodeError
from kvtide_operator.act.parent import end_with_parent

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
    """Starts nodes, resizes them and leaves none behind, whatever becomes of this process."""

    def __init__(self, replicas: int, total_bytes: int, *, block_tokens: int) -> None:
        self._replicas = replicas
        self._total_bytes = total_bytes
        self._block_tokens = block_tokens
        self._nodes: list[_Node] = []

    async def __aenter__(self) -> Self:
        try:
            for number in range(self._replicas):
                self._nodes.append(await self._start(f"node-{number}"))
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

    async def resize(self, total_bytes: int) -> list[Resized]:
        """Bring every node to its share of ``total_bytes``. Nodes that refuse do not stop the others."""
        share = _share(total_bytes, self._replicas)
        return list(await asyncio.gather(*(_resize(node, share) for node in self._nodes)))

    async def _start(self, name: str) -> _Node:
        log = tempfile.TemporaryFile()  # noqa: SIM115 - the node writes to it as long as it lives
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kvtide_cachenode", "serve",
            "--listen", "127.0.0.1:0",
            "--admin", "127.0.0.1:0",
            "--dram", str(_share(self._total_bytes, self._replicas)),
            "--block-tokens", str(self._block_tokens),
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


def _share(total_bytes: int, replicas: int) -> int:
    return total_bytes // replicas // PAGE_BYTES * PAGE_BYTES


async def _resize(node: _Node, share: int) -> Resized:
    try:
        reply = await node.client.set_capacity(dram_bytes=share)
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
