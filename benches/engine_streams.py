"""What engines' cache clients say to nodes, in virtual time: requests as sent, accesses as nodes see them.

Key formats and habits are those of LMCache 0.5.6 (`redis://` with its pool of connections, `resp://`, `lm://`)
and of the project's backend for SGLang; ranks of an engine wait for each other, requests overlap.
"""

import heapq
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from typing import Literal
from zlib import crc32

from kvtide_cachenode.access_trace.client import Client
from kvtide_cachenode.access_trace.inference import Access, Inference
from kvtide_cachenode.access_trace.ring import Inferred

Habit = Literal["redis", "resp", "lm", "sglang"]
Connection = tuple[int, int, int]
"""Engine, rank, number in its pool."""
Say = Callable[[int, Connection, Access, list[bytes], list[bool], float], None]
"""Takes node, connection, access, keys, whether each was there, and the time."""

RTT_S = 0.0008
QUEUE_S = 0.5
FIRST_CHUNK = 16


@dataclass(frozen=True)
class Sent:
    """A request: when it arrives, at which engine, and the names of its prompt's blocks."""

    at_s: float
    engine: int
    blocks: tuple[str, ...]


@dataclass
class Fleet:
    """Engines of one kind. ``hits`` tells afterwards what each request found, all ranks agreeing."""

    habit: Habit
    ranks: int = 1
    pool: int = 8
    nodes: int = 1
    engines: int = 1
    hits: dict[int, int] = field(default_factory=dict)


def conversations(
    seed: int, requests: int, *, rate: float = 4.0, engines: int = 1, at_s: float = 1e9
) -> list[Sent]:
    """Turns of conversations over shared system prompts, prompts of their own, and repeats at once."""
    rng, fresh = random.Random(seed), count()
    systems = [[f"system{n}-{at}" for at in range(rng.randrange(2, 7))] for n in range(3)]
    sessions: list[list[str]] = []
    sent: list[Sent] = []
    while len(sent) < requests:
        at_s += rng.expovariate(rate)
        draw = rng.random()
        if sent and draw < 0.08:  # another user asks the same within 100 ms
            last = sent[-1]
            at_s = last.at_s + rng.uniform(0.01, 0.1)
            sent.append(Sent(at_s, rng.randrange(engines), last.blocks))
            continue
        if sessions and draw < 0.6:
            session = rng.choice(sessions)
        else:
            session = list(rng.choice(systems)) if draw < 0.9 else []
            sessions.append(session)
        session += [f"{seed}-{next(fresh)}" for _ in range(rng.randrange(1, 12))]
        sent.append(Sent(at_s, rng.randrange(engines), tuple(session)))
    return sent


class _World:
    """A clock and processes: generators that yield how long they wait."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._queue: list[tuple[float, int, Iterator[float]]] = []
        self._serials = count()

    def spawn(self, process: Iterator[float], at_s: float) -> None:
        heapq.heappush(self._queue, (at_s, next(self._serials), process))

    def run(self) -> None:
        while self._queue:
            self.now_s, _, process = heapq.heappop(self._queue)
            delay_s = next(process, None)
            if delay_s is not None:
                self.spawn(process, self.now_s + delay_s)


class _Lock:
    """One at a time, first come first served."""

    def __init__(self) -> None:
        self._waiting: list[int] = []
        self._serials = count()

    def held(self, process: Iterator[float]) -> Iterator[float]:
        serial = next(self._serials)
        self._waiting.append(serial)
        while self._waiting[0] != serial:
            yield 0.0005
        yield from process
        self._waiting.remove(serial)


class Engines:
    """Plays requests; ``say`` sees every command as its node does."""

    def __init__(self, fleet: Fleet, say: Say, seed: int) -> None:
        self._fleet = fleet
        self._say = say
        self._rng = random.Random(seed)
        self._world = _World()
        self._held: set[bytes] = set()
        self._look_ups = [_Lock() for _ in range(fleet.engines)]
        self._steps = [_Lock() for _ in range(fleet.engines)]
        self._turn: dict[tuple[int, int, int], int] = {}

    def play(self, sent: Sequence[Sent]) -> None:
        for number, request in enumerate(sent):
            self._world.spawn(self._serve(number, request), request.at_s)
        self._world.run()

    # --- one request ---

    def _serve(self, number: int, request: Sent) -> Iterator[float]:
        fleet, engine = self._fleet, request.engine
        found = [0] * fleet.ranks
        yield from self._look_ups[engine].held(
            self._all_ranks(lambda rank: self._look_up(engine, rank, request.blocks, found))
        )
        hits = fleet.hits[number] = min(found)
        yield self._rng.uniform(0, 0.01)
        yield from self._steps[engine].held(self._compute(engine, request.blocks, hits))

    def _compute(self, engine: int, blocks: Sequence[str], hits: int) -> Iterator[float]:
        if hits:
            yield from self._all_ranks(lambda rank: self._load(engine, rank, blocks[:hits]))
        for first in range(hits, len(blocks), 8):  # chunked prefill
            chunk = blocks[first : first + 8]
            yield 0.006 * len(chunk)
            for rank in range(self._fleet.ranks):
                self._world.spawn(self._store(engine, rank, chunk), self._world.now_s)
        yield 0.05

    def _all_ranks(self, process: Callable[[int], Iterator[float]]) -> Iterator[float]:
        running = set(range(self._fleet.ranks))

        def one(rank: int) -> Iterator[float]:
            yield from process(rank)
            running.discard(rank)

        for rank in range(self._fleet.ranks):
            self._world.spawn(one(rank), self._world.now_s + self._rng.uniform(0, 0.001))
        while running:
            yield 0.0005

    # --- habits ---

    def _look_up(self, engine: int, rank: int, blocks: Sequence[str], found: list[int]) -> Iterator[float]:
        if self._fleet.habit == "resp":
            there = yield from self._tiles(Access.LOOK_UP, engine, rank, blocks)
            found[rank] = there.index(False) if False in there else len(there)
            return
        size = FIRST_CHUNK if self._fleet.habit == "sglang" else 1
        start = 0
        while start < len(blocks):
            chunk = blocks[start : start + size]
            there = self._together(Access.LOOK_UP, engine, rank, chunk)
            yield self._rng.uniform(0.5, 2) * RTT_S
            if False in there:
                found[rank] = start + there.index(False)
                return
            start += len(chunk)
            size *= 1 if size == 1 else 2
        found[rank] = len(blocks)

    def _load(self, engine: int, rank: int, blocks: Sequence[str]) -> Iterator[float]:
        habit = self._fleet.habit
        if habit == "redis":
            yield from self._gathered(Access.LOAD, engine, rank, blocks, (b"metadata", b"kv_bytes"))
        elif habit == "resp":
            yield from self._tiles(Access.LOAD, engine, rank, blocks)
        elif habit == "lm":
            for block in blocks:
                self._together(Access.LOAD, engine, rank, [block])
                yield 2 * RTT_S
        else:
            for first in range(0, len(blocks), 8):
                self._together(Access.LOAD, engine, rank, blocks[first : first + 8])
                yield self._rng.uniform(0, 0.001)

    def _store(self, engine: int, rank: int, blocks: Sequence[str]) -> Iterator[float]:
        habit = self._fleet.habit
        if habit == "redis":
            yield from self._gathered(Access.STORE, engine, rank, blocks, (b"kv_bytes", b"metadata"))
        elif habit == "resp":
            yield from self._tiles(Access.STORE, engine, rank, blocks)
        else:
            for block in blocks:
                self._together(Access.STORE, engine, rank, [block])
                yield self._rng.uniform(0.5, 2) * RTT_S

    def _gathered(
        self, access: Access, engine: int, rank: int, blocks: Sequence[str], suffixes: Sequence[bytes]
    ) -> Iterator[float]:
        """All blocks at once, each through a connection of its own; values end in about their order."""
        running = set(range(len(blocks)))

        def one(at: int) -> Iterator[float]:
            for suffix in suffixes:
                key = self._key(blocks[at], rank, suffix)
                self._command(access, engine, rank, [key])
                yield self._rng.uniform(0.5, 3) * RTT_S
            running.discard(at)

        for at in range(len(blocks)):
            self._world.spawn(one(at), self._world.now_s + at * 0.0005 + self._rng.uniform(0, 0.001))
        while running:
            yield 0.0005

    def _tiles(
        self, access: Access, engine: int, rank: int, blocks: Sequence[str]
    ) -> Generator[float, None, list[bool]]:
        """All blocks, split over eight connections that send at the same time."""
        there = [False] * len(blocks)
        size = -(-len(blocks) // 8)
        tiles = list(range(0, len(blocks), size))
        self._rng.shuffle(tiles)
        for first in tiles:
            part = [self._key(block, rank) for block in blocks[first : first + size]]
            there[first : first + size] = self._command(access, engine, rank, part)
            yield self._rng.uniform(0, 0.0002)
        yield RTT_S
        return there

    def _together(self, access: Access, engine: int, rank: int, blocks: Sequence[str]) -> list[bool]:
        suffix = b"metadata" if self._fleet.habit == "redis" else b""
        return self._command(access, engine, rank, [self._key(block, rank, suffix) for block in blocks])

    def _key(self, block: str, rank: int, suffix: bytes = b"") -> bytes:
        digest = sha256(block.encode()).hexdigest().encode()
        if self._fleet.habit == "sglang":
            return b"kvt:0123456789abcdef:s1-bfloat16-page_first-64x65536:%d-%dx1:-:0:%b" % (
                rank, self._fleet.ranks, digest
            )  # fmt: skip
        head = b"lm:" if self._fleet.habit == "lm" else b""
        return b"%bmeta-llama/Llama-3.1-8B@%d@%d@%b@bfloat16%b" % (
            head, self._fleet.ranks, rank, digest[:16], suffix
        )  # fmt: skip

    def _command(self, access: Access, engine: int, rank: int, keys: Sequence[bytes]) -> list[bool]:
        """Keys in one go, those of one node on one of the rank's connections to it."""
        there = [key in self._held for key in keys]
        if access is Access.STORE:
            self._held.update(keys)
            there = [False] * len(keys)
        for node in range(self._fleet.nodes):
            mine = [at for at, key in enumerate(keys) if crc32(key) % self._fleet.nodes == node]
            if mine:
                pool = engine, rank, node
                turn = self._turn[pool] = self._turn.get(pool, 0) + 1
                connection = (engine, rank, turn % self._fleet.pool)
                self._say(
                    node, connection, access, [keys[at] for at in mine], [there[at] for at in mine],
                    self._world.now_s,
                )  # fmt: skip
        return there


def lines_of(
    fleet: Fleet, requests: int, *, rate: float, seed: int = 1
) -> tuple[list[Sent], list[list[Inferred]]]:
    """What was sent, and the lines that each node told of it."""
    told: list[list[Inferred]] = [[] for _ in range(fleet.nodes)]
    nodes = [Inference(lines.append) for lines in told]
    clients: dict[tuple[int, Connection], Client] = {}

    def say(
        node: int, connection: Connection, access: Access, keys: list[bytes], hits: list[bool], now_s: float
    ) -> None:
        client = clients.get((node, connection))
        if client is None:
            client = clients[node, connection] = Client(nodes[node], f"host-{connection[0]}")
        client.access(access, keys, hits, now_s)

    sent = conversations(seed, requests, rate=rate, engines=fleet.engines)
    Engines(fleet, say, seed).play(sent)
    for node in nodes:
        node.end()
    return sent, told
