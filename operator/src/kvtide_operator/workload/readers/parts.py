"""Lines that nodes inferred, as requests: each node of a cluster sees the blocks that it owns. Pure."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from kvtide_cachenode.contract.trace_line import TraceLine

STEP_US: Final = 5_000
"""A look-up that goes from node to node asks the next one within so long …"""
BEGIN_US: Final = 30_000
"""… and where lines do not say how long it took, its parts begin within so long of each other."""
APART_US: Final = 1_000
"""So much later than another node's miss, a look-up is of another request: it would have ended there."""
STORED_MS: Final = 30
"""So much earlier on one node than what was missed on another, blocks may be stored …"""
STORING_MS: Final = 10_000
"""… and so much later: the engine computes a part of the prompt at a time."""
MAX_RECENT: Final = 16
"""Of one client's requests, so many are looked at: what a line costs does not grow with their number."""


@dataclass(slots=True)
class _Request:
    """Parts that are taken for one request's, and over which time it was looked up."""

    parts: list[TraceLine]
    first_us: int
    last_us: int
    missed_us: int | None = None
    nodes: set[str] = field(default_factory=set)

    def takes(self, line: TraceLine, first_us: int, last_us: int) -> bool:
        """Whether a line of another node that begins later may be a part of it."""
        most_us = BEGIN_US if line.asked_us is None else STEP_US
        if line.boot_id in self.nodes or first_us - self.last_us > most_us:
            return False
        if line.asked_us is None:
            return True
        if self.missed_us is not None and first_us > self.missed_us + APART_US:
            return False
        return not line.missed or self.last_us <= last_us + APART_US

    def add(self, line: TraceLine, last_us: int) -> None:
        self.parts.append(line)
        self.nodes.add(line.boot_id)
        self.last_us = max(self.last_us, last_us)
        if line.missed and line.asked_us is not None:
            self.missed_us = last_us if self.missed_us is None else min(self.missed_us, last_us)


def joined(lines: Sequence[TraceLine]) -> list[TraceLine]:
    """Inferred lines with the parts of one request put together, in order of time.

    A request's parts were looked up together, by one client, and each node tells one; the nearest in time
    belong together. What a client stored on one node without asking for it there belongs to the request of
    which it had begun to store what another node had missed, of several the latest. The joined line is the
    earliest part's, with the blocks of all.
    """
    ordered = sorted(lines, key=_began_us)
    if len({line.boot_id for line in lines}) < 2:
        return ordered
    asked: list[_Request] = []
    recent: dict[int | None, deque[_Request]] = {}
    for line in ordered:
        if _was_asked(line):
            _ask(asked, recent.setdefault(line.client, deque(maxlen=MAX_RECENT)), line)
    alone = _attach(asked, [line for line in ordered if not _was_asked(line)])
    whole = [_whole(request.parts) for request in asked]
    return sorted([*whole, *alone], key=lambda line: line.timestamp)


def _ask(requests: list[_Request], recent: deque[_Request], line: TraceLine) -> None:
    """Add a line that was looked up to the request that it is a part of, or begin one."""
    first_us, last_us = _began_us(line), _ended_us(line)
    taking = [request for request in recent if request.takes(line, first_us, last_us)]
    if taking:
        nearest = min(taking, key=lambda request: (max(0, first_us - request.last_us), -request.first_us))
    else:
        nearest = _Request([], first_us, last_us)
        requests.append(nearest)
        recent.append(nearest)
    nearest.add(line, last_us)


def _attach(requests: Iterable[_Request], stored: Iterable[TraceLine]) -> list[TraceLine]:
    """Add lines that were only stored to the requests they are parts of; those that are left, together."""
    storing: dict[int | None, list[tuple[int, int, _Request]]] = {}
    for number, request in enumerate(requests):
        began_ms = min((line.stored_at for line in request.parts if line.stored_at is not None), default=None)
        if began_ms is not None:
            storing.setdefault(request.parts[0].client, []).append((began_ms, number, request))
    for begun in storing.values():
        begun.sort(key=lambda moment: moment[:2])
    alone: dict[int | None, list[_Request]] = {}
    for line in stored:
        at_ms = line.timestamp if line.stored_at is None else line.stored_at
        begun = storing.get(line.client, [])
        at = bisect_right(begun, at_ms + STORED_MS, key=lambda moment: moment[0]) - 1
        if at >= 0 and at_ms - begun[at][0] <= STORING_MS:
            begun[at][2].parts.append(line)
            continue
        others = alone.setdefault(line.client, [])
        if not others or at_ms * 1000 - others[-1].last_us > BEGIN_US:
            others.append(_Request([], at_ms * 1000, at_ms * 1000))
        others[-1].add(line, at_ms * 1000)
    return [_whole(request.parts) for others in alone.values() for request in others]


def _began_us(line: TraceLine) -> int:
    return line.timestamp * 1000 + (line.asked_us[0] if line.asked_us is not None else 0)


def _ended_us(line: TraceLine) -> int:
    return line.timestamp * 1000 + (line.asked_us[1] if line.asked_us is not None else 0)


def _was_asked(line: TraceLine) -> bool:
    return line.unreliable != "stores"


def _whole(parts: list[TraceLine]) -> TraceLine:
    parts.sort(key=lambda line: line.timestamp)
    first = parts[0]
    if len(parts) == 1:
        return first
    block_tokens = max(line.input_length // max(1, len(line.hash_ids)) for line in parts)
    # What was found lies before what was missed, whichever node has it. A block of several ranks, or of a
    # value and its description, is on several nodes, and found where it is on all of them.
    missed = {block: None for line in parts for block in line.hash_ids[line.hit_blocks or 0 :]}
    found = {block: None for line in parts for block in line.hash_ids[: line.hit_blocks or 0]}
    for block in missed:
        found.pop(block, None)
    asked = [line for line in parts if _was_asked(line)]
    return msgspec.structs.replace(
        first,
        input_length=(len(found) + len(missed)) * block_tokens,
        hash_ids=[*found, *missed],
        hit_blocks=None if any(line.hit_blocks is None for line in parts) else len(found),
        stored_at=min((line.stored_at for line in parts if line.stored_at is not None), default=None),
        unreliable=next((line.unreliable for line in asked if line.unreliable), None if asked else "stores"),
    )
