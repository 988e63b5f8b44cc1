"""The access trace: what was asked of this node, one JSON line a request, in a bounded ring.

Reading takes nothing away; what the ring dropped before it was read is counted as a gap.
"""

from collections import Counter, deque
from itertools import islice
from typing import Final

import msgspec

from kvtide_cachenode.contract.documents import DocumentError, decode
from kvtide_cachenode.contract.trace_line import Doubt, EngineLine, TraceLine

MAX_LINES: Final = 100_000
MAX_BYTES: Final = 16 * 1024 * 1024
# What a line is counted as: its object with its numbers, and a list's place and an integer for each block.
LINE_BYTES: Final = 512
BLOCK_ID_BYTES: Final = 40
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024


class Inferred(msgspec.Struct, frozen=True, gc=False):
    """A request that the node put together: when it began, its blocks, how many of the first it hit.

    ``client``, ``asked_us`` and ``missed`` are as in `TraceLine`.
    """

    began_ms: int
    blocks: list[int]
    hit_blocks: int
    stored_ms: int | None = None
    doubt: Doubt | None = None
    client: int | None = None
    asked_us: tuple[int, int] | None = None
    missed: bool | None = None


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
        self.doubted_lines: Counter[str] = Counter()  # inferred ones, by `Doubt`
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

    def append_inferred(self, request: Inferred, block_tokens: int) -> None:
        """Add a request that the node put together from single accesses."""
        if request.doubt is not None:
            self.doubted_lines[request.doubt] += 1
        self._append(
            TraceLine(
                request.began_ms,
                len(request.blocks) * block_tokens,
                0,
                request.blocks,
                "node",
                1,
                self._next_seq,
                self.boot_id,
                request.hit_blocks,
                stored_at=request.stored_ms,
                unreliable=request.doubt,
                client=request.client,
                asked_us=request.asked_us,
                missed=request.missed,
            )
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
