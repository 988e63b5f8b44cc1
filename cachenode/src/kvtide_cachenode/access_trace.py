"""The access trace: what was asked of this node, one JSON line a request, in a bounded ring.

Lines follow Mooncake's schema plus ``observed_at``, ``weight``, ``seq`` and ``boot_id``. Reading takes
nothing away; what the ring dropped before it was read is counted as a gap.
"""

from collections import deque
from itertools import islice
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from kvtide_cachenode.documents import DocumentError, decode

MAX_LINES: Final = 100_000
MAX_BYTES: Final = 16 * 1024 * 1024
# What a line is counted as: its object with its numbers, and a list's place and an integer for each block.
LINE_BYTES: Final = 512
BLOCK_ID_BYTES: Final = 40
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
MAX_BLOCKS: Final = 65_536  # of one request: a million tokens in blocks of 16

_BlockId = Annotated[int, Meta(ge=0, lt=2**53)]  # exact in every JSON reader
_Milliseconds = Annotated[int, Meta(ge=0, lt=2**53)]
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]  # what readers of traces keep in 32 bits


class EngineLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an engine says of one request: unix milliseconds, tokens, tokens, block ids, blocks it hit.

    ``local_hit_blocks`` of the ``hit_blocks`` were in the engine's own cache, the others came from nodes.
    """

    timestamp: _Milliseconds
    input_length: _Count
    output_length: _Count
    hash_ids: Annotated[list[_BlockId], Meta(min_length=1, max_length=MAX_BLOCKS)]
    hit_blocks: _Count | None = None
    local_hit_blocks: _Count | None = None

    def __post_init__(self) -> None:
        if self.local_hit_blocks is not None and self.local_hit_blocks > (self.hit_blocks or 0):
            raise ValueError("local_hit_blocks are more than hit_blocks, of which they are a part")


class TraceLine(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One line of the trace as it is exported."""

    timestamp: int
    input_length: int
    output_length: int
    hash_ids: list[int]
    observed_at: Literal["engine", "node"]
    weight: int
    seq: int
    boot_id: str
    hit_blocks: int | None = None
    local_hit_blocks: int | None = None


class Page(msgspec.Struct, frozen=True):
    """Some lines, where to read on, and how many lines were dropped before the first of them."""

    lines: bytes
    next: str
    gap: int


_encode = msgspec.json.Encoder().encode


class TraceRing:
    """The newest lines, at most `MAX_LINES` and `MAX_BYTES`; the oldest go first."""

    def __init__(self, boot_id: str) -> None:
        self.boot_id = boot_id
        self._lines: deque[TraceLine] = deque()
        self._bytes = 0
        self._next_seq = 0

    @property
    def next(self) -> str:
        """Where a reader goes on who has read everything."""
        return f"{self.boot_id}:{self._next_seq}"

    @property
    def dropped(self) -> int:
        """Lines that are gone since the start."""
        return self._next_seq - len(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def append_engine(self, document: bytes) -> None:
        """Add what an engine reported.

        Raises:
            ValueError: the document is not an `EngineLine`; the sentence says where.
        """
        try:
            said = decode(document, EngineLine)
        except DocumentError as error:
            raise ValueError(f"not a trace line: {error}") from None
        self._append(
            TraceLine(
                said.timestamp,
                said.input_length,
                said.output_length,
                said.hash_ids,
                "engine",
                1,
                self._next_seq,
                self.boot_id,
                said.hit_blocks,
                said.local_hit_blocks,
            )
        )

    def append_inferred(
        self, timestamp_ms: int, block_ids: list[int], hit_blocks: int, block_tokens: int
    ) -> None:
        """Add a request that the node put together from single accesses."""
        tokens = len(block_ids) * block_tokens
        self._append(
            TraceLine(timestamp_ms, tokens, 0, block_ids, "node", 1, self._next_seq, self.boot_id, hit_blocks)
        )

    def read(self, since: str | None) -> Page:
        """Up to `MAX_PAGE_BYTES` of lines from ``since`` (``boot_id:seq``) on, from the oldest without it.

        Raises:
            ValueError: ``since`` is not of that form.
        """
        first = self.dropped
        wanted = 0 if since is None else self._seq_of(since)
        start = max(wanted, first)
        page: list[bytes] = []
        size = 0
        for kept in islice(self._lines, start - first, None):
            line = _encode(kept) + b"\n"
            if page and size + len(line) > MAX_PAGE_BYTES:
                break
            page.append(line)
            size += len(line)
        return Page(b"".join(page), f"{self.boot_id}:{start + len(page)}", start - wanted)

    def _seq_of(self, since: str) -> int:
        boot_id, colon, seq = since.rpartition(":")
        if not colon or not seq.isascii() or not seq.isdigit() or len(seq) > 18:
            raise ValueError(f"since={since!r} is not <boot_id>:<seq>, as Kvtide-Trace-Next says it")
        # Another boot's numbers mean nothing here: all of this boot's lines are new to the reader.
        return min(int(seq), self._next_seq) if boot_id == self.boot_id else 0

    def _append(self, line: TraceLine) -> None:
        self._lines.append(line)
        self._bytes += LINE_BYTES + BLOCK_ID_BYTES * len(line.hash_ids)
        self._next_seq += 1
        while len(self._lines) > MAX_LINES or self._bytes > MAX_BYTES:
            self._bytes -= LINE_BYTES + BLOCK_ID_BYTES * len(self._lines.popleft().hash_ids)
