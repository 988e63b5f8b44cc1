"""The access trace's lines: what engines send, what nodes export and readers take. Pure.

Lines follow Mooncake's schema plus ``observed_at``, ``weight``, ``seq`` and ``boot_id``, and more where it is
known. They are the same in a node's answer, in a file and in a recording.
"""

from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import Meta

MAX_BLOCKS: Final = 65_536  # of one request: a million tokens in blocks of 16

ObservedAt = Literal["engine", "node"]

Doubt = Literal["ranks", "connections", "stores"]
"""Why a line may be no request of its own.

``ranks``: the same was asked for at the same time through another connection, by a client whose keys do not
name ranks. ``connections``: the client sends one look-up in pieces over several connections, in no order.
``stores``: blocks were stored that nobody had asked for.
"""

DOUBTS: Final[tuple[Doubt, ...]] = get_args(Doubt)

BlockId = Annotated[int, Meta(ge=0, lt=2**53)]  # exact in every JSON reader
Milliseconds = Annotated[int, Meta(ge=0, lt=2**53)]
Microseconds = Annotated[int, Meta(ge=0, lt=2**53)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]  # what readers of traces keep in 32 bits


class EngineLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an engine says of one request: unix milliseconds, tokens, tokens, block ids, blocks it hit.

    ``local_hit_blocks`` of the ``hit_blocks`` were in the engine's own cache, the others came from nodes.
    """

    timestamp: Milliseconds
    input_length: Count
    output_length: Count
    hash_ids: Annotated[list[BlockId], Meta(min_length=1, max_length=MAX_BLOCKS)]
    hit_blocks: Count | None = None
    local_hit_blocks: Count | None = None

    def __post_init__(self) -> None:
        _check_hits(self.hit_blocks, self.local_hit_blocks)


class TraceLine(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One line of the trace as it is exported, recorded and read.

    ``stored_at`` is when the first of its blocks was stored; ``unreliable`` is there where the line may be no
    request of its own. By the following the parts of one request are known that several nodes saw: ``client``
    is a number for the host that the accesses of an inferred line came from, ``asked_us`` is when it asked
    for the first and the last block, in microseconds after ``timestamp``, and ``missed`` whether one of these
    was not there.
    """

    timestamp: Milliseconds
    input_length: Count
    output_length: Count
    hash_ids: list[BlockId]
    observed_at: ObservedAt
    weight: Annotated[float, Meta(gt=0)]
    seq: Annotated[int, Meta(ge=0)]
    boot_id: str
    hit_blocks: Count | None = None
    local_hit_blocks: Count | None = None
    stored_at: Milliseconds | None = None
    unreliable: Doubt | None = None
    client: Count | None = None
    asked_us: tuple[Microseconds, Microseconds] | None = None
    missed: bool | None = None

    def __post_init__(self) -> None:
        _check_hits(self.hit_blocks, self.local_hit_blocks)


def _check_hits(hit_blocks: int | None, local_hit_blocks: int | None) -> None:
    if local_hit_blocks is not None and local_hit_blocks > (hit_blocks or 0):
        raise ValueError("local_hit_blocks are more than hit_blocks, of which they are a part")
