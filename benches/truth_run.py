"""One node under connections that know what they may read, others that stall, and a size that changes."""

import asyncio
import itertools
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, cast

from benches.node_process import MI, NodeProcess
from benches.resp_stream import BrokenStreamError, Reply, ReplyReader, request
from benches.truth_model import Key, PrivateKey, SharedKey, Values
from benches.truth_replies import Desync, Expected, Refusal, WrongValue, nothing, shown
from benches.truth_script import BULK_BYTES, Script

WINDOW: Final = 256  # commands under way on one connection
LARGE_AT_ONCE: Final = 3
SILENCE_S: Final = 30.0  # a reply that takes longer is lost
SHOWN: Final = 20
ENOUGH: Final = 200  # problems: what follows says no more
SHARED_KEYS: Final = 150
LARGE_KEYS: Final = 4
OWN_KEYS: Final = 16
LONG_NAMES: Final = (BULK_BYTES - 1, BULK_BYTES, BULK_BYTES + 1, 40_000)


@dataclass
class Findings:
    """What was seen, counted by kind, with the first sentences of it."""

    counts: Counter[str] = field(default_factory=Counter)
    sentences: list[str] = field(default_factory=list)

    def add(self, kind: str, sentence: str, count: int = 1) -> None:
        self.counts[kind] += count
        if self.counts[kind] <= SHOWN:
            self.sentences.append(f"{kind}: {sentence}")
            print(self.sentences[-1][:400], file=sys.stderr, flush=True)

    @property
    def enough(self) -> bool:
        return self.counts.total() >= ENOUGH


class World:
    """What all connections of a run share: keys, the clock, findings, how much is to do."""

    def __init__(self, node: NodeProcess, commands: int, seed: int, without: Container[str] = ()) -> None:
        self.node = node
        self.seed = seed
        self.without = without
        self.left = commands
        self.done = 0
        self.values = Values(seed)
        self.findings = Findings()
        self.large = asyncio.Semaphore(LARGE_AT_ONCE)
        self.names: set[bytes] = set()
        self._numbers = itertools.count()
        self._time = itertools.count(1)
        self.shared = [self.shared_key(b"s%d" % at) for at in range(SHARED_KEYS)]
        self.large_keys = [self.shared_key(b"large%d" % at) for at in range(LARGE_KEYS)]
        self.private: list[PrivateKey] = []
        self.scripts: list[Script] = []
        self.stalls = self.resizes = 0

    @property
    def going(self) -> bool:
        return self.left > 0 and self.node.running and not self.findings.enough

    def clock(self) -> int:
        """The next moment: no two events share one."""
        return next(self._time)

    def shared_key(self, name: bytes) -> SharedKey:
        self.names.add(name)
        return SharedKey(next(self._numbers), name, self.values)

    def private_key(self, name: bytes = b"", length: int = 0) -> PrivateKey:
        number = next(self._numbers)
        key = PrivateKey(number, (name + b"%d" % number).ljust(length, b"k"), self.values)
        self.names.add(key.name)
        self.private.append(key)
        return key

    def last_keys(self) -> list[Key]:
        """Those to read at the end: the shared ones, and the last of the connections' own."""
        return [*self.shared, *self.large_keys, *self.private[-50:]]

    def script(self, rng: random.Random) -> Script:
        """Commands for a new connection, on keys that no earlier one has had."""
        own = [self.private_key(b"p") for _ in range(OWN_KEYS)]
        lengths = LONG_NAMES[:1] if "long" in self.without else LONG_NAMES
        long = [self.private_key(b"l", length) for length in lengths]
        self.scripts.append(
            Script(rng, self.values, self.clock, own, self.shared, long, self.large_keys, self.names)
        )
        if "large" in self.without:
            self.scripts[-1].share_of_large = 0
        if "scans" in self.without:
            self.scripts[-1].leave_out_scans()
        return self.scripts[-1]


class Talk(asyncio.Protocol):
    """One connection: what was sent and waits for its reply, in order."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reader = ReplyReader()
        self._transport: asyncio.WriteTransport | None = None
        self._room = asyncio.Event()
        self.under_way: list[Expected] = []
        self._answered = 0  # of those at the front
        self.ended = False
        self.progress_s = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def waiting(self) -> int:
        return len(self.under_way) - self._answered

    async def send(self, pieces: list[bytes | memoryview], expected: Expected) -> None:
        if self.ended or self._transport is None:
            expected.lost()
            if expected.large:
                self._world.large.release()
            return
        if not self.waiting:
            self.progress_s = time.monotonic()
        self.under_way.append(expected)
        if expected.large:
            self._write(pieces)
        else:
            self._write([b"".join(pieces)])
        await self.drained(WINDOW)

    def send_cut(self, data: bytes, expected: Expected, at: int) -> None:
        """In two segments, if the kernel lets them be two."""
        if not self.waiting:
            self.progress_s = time.monotonic()
        self.under_way.append(expected)
        self._write_rest(data[:at])
        asyncio.get_running_loop().call_later(0.001, self._write_rest, data[at:])

    def _write(self, pieces: list[bytes | memoryview]) -> None:
        if not self.ended and self._transport is not None:
            for piece in pieces:
                self._transport.write(piece)

    def _write_rest(self, data: bytes) -> None:
        self._write([data])

    async def drained(self, at_most: int) -> None:
        while self.waiting > at_most and not self.ended:
            self._room.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), 1.0)
            if self.waiting and time.monotonic() - self.progress_s > SILENCE_S:
                self.give_up("lost", f"no reply for {SILENCE_S:.0f} s to {self.oldest()!r}", self.waiting)

    def oldest(self) -> bytes:
        return self.under_way[self._answered].said if self.waiting else b""

    def data_received(self, data: bytes) -> None:
        if self.ended:
            return
        self.progress_s = time.monotonic()
        try:
            for reply in self._reader.feed(data):
                self._take(reply)
        except BrokenStreamError as error:
            self.give_up("out_of_order", str(error))
        except Desync as error:
            self.give_up("out_of_order", f"{error}; the command was {self._last()!r}")
        except WrongValue as error:
            self.give_up("wrong", f"{error}; the command was {self._last()!r}")
        if self._answered > WINDOW:
            del self.under_way[: self._answered]
            self._answered = 0
        self._room.set()

    def _take(self, reply: Reply) -> None:
        if not self.waiting:
            raise Desync(f"a reply that nothing asked for: {shown(reply)}")
        expected = self.under_way[self._answered]
        self._answered += 1
        world = self._world
        world.done += 1
        if expected.large:
            world.large.release()
        try:
            expected.check(reply, world.clock())
        except Refusal as error:
            world.findings.add("errors", str(error))

    def _last(self) -> bytes:
        return self.under_way[self._answered - 1].said if self._answered else b""

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended and self.waiting:
            why = f"the node closed the connection ({error}) before it answered {self.oldest()!r}"
            self.give_up("lost", why, self.waiting)
        self.ended = True
        self._room.set()

    def give_up(self, kind: str, sentence: str, count: int = 1) -> None:
        """Report, and close: what is under way may have happened, or not."""
        self._world.findings.add(kind, sentence, count)
        self.close()

    def close(self) -> None:
        if self.ended:
            return
        self.ended = True
        for expected in self.under_way[self._answered :]:
            expected.lost()
            if expected.large:
                self._world.large.release()
        self.under_way.clear()
        self._answered = 0
        if self._transport is not None:
            self._transport.abort()
        self._room.set()


async def open_talk(world: World) -> Talk:
    loop = asyncio.get_running_loop()
    _, talk = await loop.create_connection(lambda: Talk(world), "127.0.0.1", world.node.port)
    return talk


async def work(world: World, number: int) -> None:
    """Pipelines of random lengths until nothing is left to do."""
    rng = random.Random(f"{world.seed}-{number}")
    while world.going:
        try:
            talk = await open_talk(world)
        except OSError as error:
            world.findings.add("lost", f"no connection: {error}")
            await asyncio.sleep(0.5)
            continue
        script = world.script(rng)
        if number % 2:
            await talk.send([request(b"HELLO", b"3")], Expected(b"HELLO 3", _is_map, nothing))
        while world.going and not talk.ended:
            await _pipeline(world, talk, script, rng)
        await talk.drained(0)
        talk.close()


async def _pipeline(world: World, talk: Talk, script: Script, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 32, 100))):
        if world.left <= 0 or talk.ended:
            return
        world.left -= 1
        pieces, expected = script.next()
        if expected.large:
            await world.large.acquire()
        elif rng.random() < 0.02 and not talk.ended:
            data = b"".join(pieces)
            talk.send_cut(data, expected, rng.randrange(len(data) + 1))
            await asyncio.sleep(0.002)  # nothing may be sent between the two
            continue
        await talk.send(pieces, expected)
    await talk.drained(rng.choice((0, 0, 10, 100)))


def _is_map(reply: Reply, now: int) -> None:  # noqa: ARG001 - every check's signature
    if not isinstance(reply, list) or b"server" not in reply:
        raise Desync(f"HELLO 3 is answered with {shown(reply)}")


async def resize(world: World, dram_bytes: int, ssd_bytes: int, stop: asyncio.Event) -> None:
    """Sizes of both tiers, both ways, down to next to nothing, while all goes on."""
    rng = random.Random(f"{world.seed}-resize")
    while not stop.is_set() and world.node.running:
        chance = rng.random()
        small = int(2 ** rng.uniform(12, 20))
        dram = (
            small
            if chance < 0.12
            else int(dram_bytes * 2 ** rng.uniform(-2, 1))
            if chance < 0.7
            else dram_bytes
        )
        wanted = {"dram": dram, "ssd": int(ssd_bytes * 2 ** rng.uniform(-2, 0))}
        if rng.random() < 0.5:
            del wanted["ssd"]
        code, body = await asyncio.to_thread(world.node.ask, "PUT", "/v1/capacity", wanted)
        if code not in (200, 202, 409):
            world.findings.add("errors", f"PUT /v1/capacity {wanted} answers {code}: {body[:200]!r}")
        world.resizes += 1
        await asyncio.sleep(rng.uniform(0.05, 0.2 if chance < 0.12 else 0.6))
    await asyncio.to_thread(world.node.ask, "PUT", "/v1/capacity", {"dram": max(dram_bytes, MI)})


async def show(world: World, title: str, stop: asyncio.Event) -> None:
    began_s, before = time.monotonic(), 0
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 5)
        took_s = time.monotonic() - began_s
        problems = dict(world.findings.counts) or "no problem"
        rate = (world.done - before) / 5
        print(
            f"{title} {took_s:5.0f} s {world.done} commands {rate:.0f}/s: {problems}",
            file=sys.stderr,
            flush=True,
        )
        before = world.done
