"""Lines that nodes inferred, as requests: each node of a cluster sees the blocks that it owns. Pure."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

import msgspec

from kvtide_cachenode.contract.trace_line import TraceLine

BEGIN_MS = 30
"""Parts of one request begin within so long of each other: a look-up takes about a millisecond a block …"""
STORE_MS = 250
"""… or store within so long, which is more data."""
RANKS_MS = 5
"""On one node, ranks whose parts of a request lie on different nodes look up within so long."""


def joined(lines: Sequence[TraceLine]) -> list[TraceLine]:
    """Inferred lines with the parts of one request put together, in order of time.

    A request's parts are looked up together, and what was missed is stored together, which may be all that a
    node sees. The nearest in time belong together; a node tells one part of a request, or one for each
    rank where those have other blocks there. The joined line is the
    earliest part's, with the blocks of all.
    """
    if len({line.boot_id for line in lines}) < 2:
        return sorted(lines, key=lambda line: line.timestamp)
    groups = [[at] for at in range(len(lines))]
    group_of = list(range(len(lines)))
    for moment, within_ms in ((_began, BEGIN_MS), (_stored, STORE_MS)):
        for apart_ms, first, second in sorted(_pairs(lines, moment, within_ms)):
            one, other = group_of[first], group_of[second]
            if one == other or (moment is _stored and _was_asked(lines[first]) and _was_asked(lines[second])):
                continue
            if _nodes(lines, groups[one]) & _nodes(lines, groups[other]) and (
                apart_ms > RANKS_MS or not _are_apart(lines, groups[one], groups[other])
            ):
                continue
            for at in groups[other]:
                group_of[at] = one
            groups[one] += groups[other]
            groups[other] = []
    whole = [_whole([lines[at] for at in group]) for group in groups if group]
    return sorted(whole, key=lambda line: line.timestamp)


def _began(line: TraceLine) -> int | None:
    """When it was looked up; None of one that was only stored."""
    return line.timestamp if _was_asked(line) else None


def _was_asked(line: TraceLine) -> bool:
    return line.unreliable != "stores"


def _stored(line: TraceLine) -> int | None:
    return line.stored_at


def _pairs(
    lines: Sequence[TraceLine], moment: Callable[[TraceLine], int | None], within_ms: int
) -> list[tuple[int, int, int]]:
    """How far apart, and which, of lines of different nodes: for each the nearest two of each other node."""
    by_node: dict[str, list[tuple[int, int]]] = {}
    for at, line in enumerate(lines):
        when_ms = moment(line)
        if when_ms is not None:
            by_node.setdefault(line.boot_id, []).append((when_ms, at))
    for moments in by_node.values():
        moments.sort()
    pairs = []
    for node, mine in by_node.items():
        for other, theirs in by_node.items():
            most_ms = RANKS_MS if node == other else within_ms
            for when_ms, at in mine:
                near = bisect_left(theirs, (when_ms, -1))
                for their_ms, their_at in theirs[max(0, near - 2) : near + 3]:
                    apart_ms = abs(when_ms - their_ms)
                    if apart_ms <= most_ms and at != their_at:
                        pairs.append((apart_ms, min(at, their_at), max(at, their_at)))
    return pairs


def _are_apart(lines: Sequence[TraceLine], group: Sequence[int], other: Sequence[int]) -> bool:
    """Whether no node has told of the same block in both."""
    blocks = {(lines[at].boot_id, block) for at in group for block in lines[at].hash_ids}
    return not any((lines[at].boot_id, block) in blocks for at in other for block in lines[at].hash_ids)


def _nodes(lines: Sequence[TraceLine], group: Sequence[int]) -> set[str]:
    return {lines[at].boot_id for at in group}


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
