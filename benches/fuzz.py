"""Fuzzes the wire parsers, the commands behind them, the admin API and the SSD log.

    python -m benches.fuzz CPU_MINUTES [--seed N] [--targets resp,lm,admin,segments]

Nothing may crash, hang, grow without bound or serve a wrong byte. Inputs are conversations, mutated, and
cut at random places; of the SSD log, the files are damaged. Every case runs under a limit of CPU time; the
parsers must say the same however the bytes were cut; the books of the store must balance; the process must
not grow. The targets share the process's CPU time equally, whatever a case of each costs.
What fails is kept as a file that can be given to the target's function again.
"""

import argparse
import asyncio
import logging
import random
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benches.fuzz_segments import DamagedLog

from kvtide_cachenode.control.admin import AdminServer
from kvtide_cachenode.node import Node
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.serve.commands import TABLE, execute, landing
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import Session
from kvtide_cachenode.store import Store
from kvtide_cachenode.wire import events, lm, resp

MI: Final = 1024 * 1024
CASE_S: Final = 1.0
GROWTH_BYTES: Final = 128 * MI
MAX_CASE_BYTES: Final = 200_000
DROPPED: Final = landing.Refused(b"")
INTERESTING: Final = (
    *(b"\r\n", b"\n", b"$", b"*", b":", b"-1", b"0", b"00", b"$-1\r\n", b"*0\r\n", b"*-1\r\n", b"'", b'"'),
    *(b"$16384\r\n", b"$536870912\r\n", b"$536870913\r\n", b"*1048576\r\n", b"9" * 40, b"\x00", b"\xff" * 9),
    *(
        b"GET",
        b"SET",
        b"MSET",
        b"EXISTS",
        b"AUTH",
        b"HELLO",
        b"3",
        b"SCAN",
        b"MATCH",
        b"*" * 64,
        b"{}",
        b"[[",
    ),
)


def request(words: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def resp_conversation(rng: random.Random) -> bytes:
    names = sorted(TABLE)
    said = []
    for _ in range(rng.randrange(1, 8)):
        words = [rng.choice(names)]
        for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 7, 70])):
            size = rng.choice([0, 1, 3, 80, 1023, 1024, 16_383, 16_384, 40_000])
            small = rng.choice([b"a", b"b", b"k%d" % rng.randrange(4), rng.choice(INTERESTING)])
            words.append(rng.randbytes(size) if rng.random() < 0.2 else small)
        said.append(request(words) if rng.random() < 0.9 else b" ".join(words)[:300] + b"\r\n")
    return b"".join(said)


def lm_conversation(rng: random.Random) -> bytes:
    said = []
    for _ in range(rng.randrange(1, 6)):
        size = rng.choice([0, 1, 100, 40_000])
        key = rng.choice([b"k", b"model@1@0@abc@half", rng.randbytes(20)])
        header = [
            rng.choice([1, 2, 3, 4, 5, 6, 2**31 - 1, -1]),
            size,
            *(rng.choice([0, 1, 2, 9]) for _ in range(6)),
        ]
        said.append(b"".join(n.to_bytes(4, "little", signed=True) for n in header) + key.ljust(150)[:150])
        said.append(rng.randbytes(size))
    return b"".join(said)


def mutated(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.choice([0, 1, 1, 2, 8])):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                data = data[:at] + rng.choice(INTERESTING) + data[at:]
            case 1:
                data = data[:at] + data[at + rng.randrange(1, 30) :]
            case 2:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 3:
                data = data[:at] + data[: rng.randrange(200)] + data[at:]
            case 4:
                data = data[:at]
    return data[:MAX_CASE_BYTES]


def feed(parser: Any, data: bytes, cut: Callable[[], int], on_event: Callable[[Any], bool]) -> None:
    """Give the parser its bytes in pieces; ``on_event`` says whether to go on."""
    at = 0
    while at < len(data):
        buffers = parser.buffers()
        room = sum(map(len, buffers))
        assert 0 < room <= 2 * MI, f"the parser offers {room} bytes"
        piece = data[at : at + min(cut(), room)]
        at += len(piece)
        parser.received(len(piece))
        for buffer in buffers:
            buffer[: len(piece)] = piece[: len(buffer)]
            piece = piece[len(buffer) :]
        while (event := parser.next_event()) is not None:
            if not on_event(event):
                return


def resp_events(data: bytes, cut: Callable[[], int]) -> list[Any]:
    parser = resp.RequestParser()
    seen: list[Any] = []

    def note(event: Any) -> bool:
        if isinstance(event, events.Announced):
            seen.append(("announced", list(event.words), event.index, event.length))
            parser.land(DROPPED)
        elif isinstance(event, events.Broken):
            seen.append(event)
            return False
        elif isinstance(event, events.Landed):
            seen.append((event.words, list(event.places)))
        else:
            seen.append(event)
        return True

    feed(parser, data, cut, note)
    return seen


def run_resp(node: Node, data: bytes, seed: int) -> None:
    rng = random.Random(seed)
    pieces = resp_events(data, lambda: rng.choice([1, 2, 7, 100, 5000, 70_000]))
    assert pieces == resp_events(data, lambda: 70_000), "cutting changes what the parser says"
    session, parser = Session(node, 1, "fuzz"), resp.RequestParser()

    def on_event(event: Any) -> bool:
        if isinstance(event, events.Announced):
            parser.land(landing.place_for(session, event))
        elif isinstance(event, events.Broken):
            return False
        else:
            landed = isinstance(event, events.Landed)
            request = landing.request_of(session, event) if landed else Request(event)
            if request is not None:
                execute(session, request)
            assert session.out or session.later, f"no reply to {event!r:.200}"
            if session.later is not None:
                session.later.close()
                session.later = None
            if request is not None:
                request.release(node.store)
            session.out.clear()
            session.sent(session.queued_bytes)
        return not session.closing

    feed(parser, data, lambda: 70_000, on_event)
    session.close()
    landing.give_up(parser.arriving)
    node.store.check()


def lm_events(data: bytes, cut: Callable[[], int]) -> list[Any]:
    parser, seen = lm.RequestParser(), []

    def note(event: Any) -> bool:
        seen.append(repr(event))
        if isinstance(event, lm.Value):
            parser.land(None)
        return not isinstance(event, lm.Broken)

    feed(parser, data, cut, note)
    return seen


def run_lm(node: Node, data: bytes, seed: int) -> None:  # noqa: ARG001 - every target's signature
    rng = random.Random(seed)
    pieces = lm_events(data, lambda: rng.choice([1, 7, 200, 5000, 70_000]))
    assert pieces == lm_events(data, lambda: 70_000), "cutting changes what the parser says"


def http_request(rng: random.Random) -> bytes:
    path = rng.choice(
        ["/v1/status", "/v1/capacity", "/v1/desired", "/v1/trace", "/v1/drain", "/metrics", "/no"]
    )
    body = rng.choice(
        [
            b"", b"{}", b'{"dram": 1048576}', b'{"dram": "8Mi", "ssd": "1Gi"}', b'{"dram": -1}', b"[" * 5000,
            b'{"generation": 1, "term": 1, "capacity": {"dram": 8388608}}', b'{"deadline_s": 0.1}',
        ]
    )  # fmt: skip
    query = rng.choice(["", "?since=a:1", "?since=%ff", "?since=" + "9" * 40])
    head = f"{rng.choice(['GET', 'PUT', 'POST', 'DELETE'])} {path}{query} HTTP/1.1\r\nHost: a\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def run_admin(port: int, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(CASE_S * 5):
            said = await reader.read()
        status = said.split(b" ", 2)[1] if said else b""
        assert status != b"500", f"the admin API failed: {said[:200]!r}"
    except ConnectionError:  # refusing to listen further is an answer
        return
    finally:
        writer.close()


@dataclass
class Tally:
    """Cases run of one target, and the CPU seconds of this process they took, threads included."""

    cases: int = 0
    cpu_s: float = 0.0


async def fuzz(cpu_s: float, seed: int, targets: list[str]) -> dict[str, Tally]:
    """What was run by target.

    Raises:
        AssertionError: a case failed; its input is in the message.
    """
    rng = random.Random(seed)
    node = Node(Store(8 * MI, 64 * MI, make_policy("lru")), block_tokens=16)
    server = AdminServer(node)
    _, port = await server.start("127.0.0.1", 0)
    damaged = DamagedLog()
    await damaged.make(rng)
    makers: dict[str, Callable[[random.Random], bytes]] = {
        "resp": resp_conversation, "lm": lm_conversation, "admin": http_request, "segments": lambda _: b""
    }  # fmt: skip
    runs: dict[str, Callable[[bytes, int], Awaitable[None]]] = {
        "resp": lambda data, case: _called(run_resp, node, data, case),
        "lm": lambda data, case: _called(run_lm, node, data, case),
        "admin": lambda data, _: run_admin(port, data),
        "segments": lambda _, case: damaged.run(random.Random(case)),
    }
    tallies = {target: Tally() for target in targets}
    grown_from = 0
    try:
        while sum(tally.cpu_s for tally in tallies.values()) < cpu_s:
            target, tally = min(tallies.items(), key=lambda item: item[1].cpu_s)
            began_s = time.process_time()
            data, case = mutated(rng, makers[target](rng)), rng.randrange(2**32)
            try:
                await runs[target](data, case)
                took_s = time.process_time() - began_s
                assert target in ("admin", "segments") or took_s < CASE_S, f"took {took_s:.1f} s"
            except Exception as error:
                file = Path(tempfile.gettempdir(), f"kvtide-fuzz-{target}-{case}.bin")
                file.write_bytes(data)
                raise AssertionError(f"{target}: {error!r} with seed {case} on {file}") from error
            tally.cases += 1
            tally.cpu_s += took_s
            if sum(tally.cases for tally in tallies.values()) == 500:
                grown_from = _largest_bytes()
        if grown_from:
            grown = _largest_bytes() - grown_from
            assert grown <= GROWTH_BYTES, f"the process grew by {grown} bytes"
    finally:
        await server.stop()
        damaged.close()
    return tallies


async def _called(run: Callable[[Node, bytes, int], None], node: Node, data: bytes, case: int) -> None:
    run(node, data, case)


def _largest_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("cpu_minutes", type=float)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--targets", default="resp,lm,admin,segments")
    given = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it tells every bad request at length
    print(f"seed {given.seed}", file=sys.stderr)
    tallies = asyncio.run(fuzz(given.cpu_minutes * 60, given.seed, given.targets.split(",")))
    for target, tally in tallies.items():
        print(f"{target:9} {tally.cases:9} cases {tally.cpu_s / 60:6.2f} CPU-minutes")
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"this process: {used.ru_utime / 60:.2f} user + {used.ru_stime / 60:.2f} system CPU-minutes")


if __name__ == "__main__":
    main()
