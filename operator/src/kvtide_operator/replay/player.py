"""Plays a trace against targets the way an engine's connector would use them."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from kvtide_cachenode.wire.resp_client import Check, Compared, Refused, encode, encode_set
from kvtide_operator.replay.blocks import BlockValues, key_of
from kvtide_operator.replay.link import GaveUpError, Link, TargetHealth
from kvtide_operator.replay.measure import Operation
from kvtide_operator.replay.report import Books, ReplayReport, ReplayTotals
from kvtide_operator.replay.target_connection import AccessError, Answer, PeerError
from kvtide_operator.replay.targets import Target, owner_of
from kvtide_operator.workload.spread import spread
from kvtide_operator.workload.trace import Trace

_NO_ANSWER = Refused("no answer")
"""Stands for the reply to a command that got none."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to play.

    Attributes:
        block_bytes: length of the value that stands in for a block.
        speed: multiple of the trace's own pace; None plays as fast as the servers answer.
        connections: most requests in flight, each on its own connection to every target. With 1 the
            servers see the accesses in exactly the trace's order.
        report_requests: send ``KVTIDE.TRACE`` lines to kvtide nodes, as an engine's connector does.
        clock: Unix time in seconds at which those lines say that a request arrived.
        seed: of the values, and of the arrivals within a tick of a coarse clock.
    """

    block_bytes: int = 64 * 1024
    speed: float | None = None
    connections: int = 1
    report_requests: bool = True
    clock: Callable[[], float] = time.time
    seed: int = 1


class TargetError(Exception):
    """A target cannot be used from the start; the message names it, the reason and the cure."""


async def replay(
    trace: Trace,
    targets: Sequence[Target],
    options: ReplayOptions,
    on_progress: Callable[[ReplayTotals], None] | None = None,
) -> ReplayReport:
    """Play ``trace`` against ``targets`` and say what came of it.

    Each request, root first: EXISTS block by block up to the first miss, GET for the hits, SET for every
    block from the first miss on. A block whose EXISTS or GET failed counts as a miss. Cancelling closes all
    connections at once.

    Args:
        trace: what to play.
        targets: at least one server; keys are spread over them in equal ranges of Redis Cluster's slots.
        options: how to play.
        on_progress: is called with running totals, at most every 0.1 s and at the end.

    Raises:
        TargetError: a target is down, or refuses the password, before the first request.
    """
    assert targets
    assert options.connections > 0
    if options.speed is not None:
        trace = spread(trace, options.seed)
    values = BlockValues(options.block_bytes, options.seed)
    healths = [TargetHealth(target) for target in targets]
    links: list[Link] = []
    gave_up: str | None = None
    try:
        for _ in range(options.connections):
            for health in healths:
                links.append(await _open(health))  # noqa: PERF401 - opened ones must be closed if one fails
        books = Books(on_progress)
        pace = _Pace(trace, options.speed)
        requests = iter(range(trace.requests))
        async with asyncio.TaskGroup() as workers:
            for first in range(0, len(links), len(targets)):
                mine = links[first : first + len(targets)]
                worker = _Worker(trace, options, values, mine, books)
                workers.create_task(worker.play(requests, pace))
    except* GaveUpError as group:
        gave_up = str(group.exceptions[0])
    finally:
        for link in links:
            link.close()
    books.tell()
    return books.report(None if options.speed is None else pace.behind_max_s, gave_up)


async def _open(health: TargetHealth) -> Link:
    try:
        return await Link.open_to(health)
    except PeerError as failure:
        raise TargetError(f"{health.target}: {failure}; start the server or mend the address") from None
    except AccessError as refusal:
        raise TargetError(
            f"{health.target} refuses access: {refusal}; give redis://:PASSWORD@HOST:PORT"
        ) from None


class _Pace:
    """When each request is due."""

    def __init__(self, trace: Trace, speed: float | None) -> None:
        self._arrival_s = trace.arrival_s
        self._speed = speed
        self._began_s = time.perf_counter()
        self.behind_max_s = 0.0

    async def wait_for(self, request: int) -> None:
        """Return when a request is due."""
        if self._speed is None:
            return
        due_s = self._began_s + float(self._arrival_s[request]) / self._speed
        while (early_s := due_s - time.perf_counter()) > 0:  # a timer of whole milliseconds may be early
            await asyncio.sleep(early_s)
        self.behind_max_s = max(self.behind_max_s, time.perf_counter() - due_s)


class _Worker:
    """Plays one request at a time, on its own link to every target."""

    def __init__(
        self,
        trace: Trace,
        options: ReplayOptions,
        values: BlockValues,
        links: Sequence[Link],
        books: Books,
    ) -> None:
        self._trace = trace
        self._options = options
        self._values = values
        self._links = links
        self._books = books

    async def play(self, requests: Iterator[int], pace: _Pace) -> None:
        """Play requests until all workers together have taken the last."""
        for request in requests:
            await pace.wait_for(request)
            arrival_s = self._options.clock()
            ids: list[int] = self._trace.block_ids[self._trace.blocks_of(request)].tolist()
            looked_up, found = await self._look_up(ids)
            loaded = await self._load(ids[:found])
            await self._store(ids[loaded:])
            if self._options.report_requests and ids:
                await self._report(request, arrival_s, ids, loaded)
            self._books.finish_request(len(ids), looked_up, loaded)

    async def _look_up(self, ids: list[int]) -> tuple[int, int]:
        for found, block_id in enumerate(ids):
            key = key_of(block_id)
            if await self._timed(self._books.exists, key, [encode(b"EXISTS", key)]) != 1:
                return found + 1, found
        return len(ids), len(ids)

    async def _load(self, ids: list[int]) -> int:
        for loaded, block_id in enumerate(ids):
            key = key_of(block_id)
            check = partial(self._values.matches, block_id)
            value = await self._timed(self._books.get, key, [encode(b"GET", key)], check)
            if not isinstance(value, Compared):
                return loaded
            self._books.get.bytes += value.length
            if not value.is_right or value.length != self._values.block_bytes:
                self._books.totals.wrong_bytes += 1
        return len(ids)

    async def _store(self, ids: list[int]) -> None:
        size = self._values.block_bytes
        for block_id in ids:
            key = key_of(block_id)
            header, body = self._values.value(block_id)
            if (
                await self._timed(self._books.set, key, [encode_set(key, size) + header, body, b"\r\n"])
                == b"OK"
            ):
                self._books.set.bytes += size

    async def _report(self, request: int, arrival_s: float, ids: list[int], hit_blocks: int) -> None:
        # By the last block: the first ones are shared by many requests, and their owner would get every line.
        owner = owner_of(key_of(ids[-1]), self._links)
        if not self._links[owner].is_kvtide:
            return
        line = msgspec.json.encode(
            {
                "timestamp": int(arrival_s * 1e3),
                "input_length": int(self._trace.input_tokens[request]),
                "output_length": int(self._trace.output_tokens[request]),
                "hash_ids": ids,
                "hit_blocks": hit_blocks,
            }
        )
        await self._ask(owner, [encode(b"KVTIDE.TRACE", line)])

    async def _timed(
        self,
        operation: Operation,
        key: bytes,
        command: Iterable[bytes | memoryview],
        check: Check | None = None,
    ) -> Answer:
        """Ask the owner of ``key`` and measure how long an answer took."""
        began_s = time.perf_counter()
        operation.begin(began_s)
        try:
            answer = await self._ask(owner_of(key, self._links), command, check)
        finally:
            ended_s = time.perf_counter()
            operation.end(ended_s)
        if answer is not _NO_ANSWER:
            operation.latency.add(ended_s - began_s)
        return answer

    async def _ask(
        self, owner: int, command: Iterable[bytes | memoryview], check: Check | None = None
    ) -> Answer:
        """Ask one target; a refusal and a failure are counted, and stand for themselves."""
        link = self._links[owner]
        totals = self._books.totals
        try:
            answer = await link.ask(command, check)
        except (PeerError, AccessError) as failure:
            totals.count_error(f"{link.target}: {failure}")
            return _NO_ANSWER
        except GaveUpError as end:
            totals.count_error(str(end))
            raise
        if isinstance(answer, Refused):
            totals.count_error(f"{link.target}: {answer.text}")
        return answer
