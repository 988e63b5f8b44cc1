"""What a case of `waits` has to do with: a node, a client of it, and what was prepared."""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from benches.node_process import NodeProcess
from benches.resp_stream import Client, request

ENTRIES: Final = 500_000
BATCH: Final = 2000


@dataclass
class Stage:
    """The node, a client of it, and what a case keeps from its preparation; ``scale`` makes all smaller."""

    node: NodeProcess
    scale: float
    stack: ExitStack
    client: Client = field(init=False)
    text: bytes = b""
    entries: int = 0
    generation: int = 0
    second: NodeProcess | None = None
    crowd: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = Client(self.node.port, timeout_s=120)

    def count(self, of: int) -> int:
        return max(int(of * self.scale), 1)

    def fill(self, length: int = 10) -> None:
        """Half a million entries, unless they are there."""
        wanted = self.count(ENTRIES)
        for begin in range(self.entries, wanted, BATCH):
            numbers = range(begin, min(begin + BATCH, wanted))
            self.client.run(b"".join([request(b"SET", b"k%07d" % at, b"v" * length) for at in numbers]))
        self.entries = wanted

    def say(self) -> None:
        """Send what is prepared and read all that is answered."""
        self.client.run(self.text)

    def put(self, path: str, body: object) -> None:
        code, said = self.node.ask("PUT", path, body)
        assert code in (200, 202), f"{path} answers {code}: {said[:200]!r}"


@dataclass(frozen=True)
class Case:
    """``prepare`` runs before each round and is not measured."""

    name: str
    prepare: Callable[[Stage], None]
    act: Callable[[Stage], None] = Stage.say
    dram: str = "1Gi"
    ssd: bool = False
