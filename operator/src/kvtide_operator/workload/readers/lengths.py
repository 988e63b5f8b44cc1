"""CSV traces of arrivals and lengths, which say nothing about prefixes: Splitwise's, Azure's, BurstGPT's.

What blocks their requests share is not known and not guessed: such a trace has none. Sources: the Azure LLM
inference traces, in their own form (AzurePublicDataset) and as Splitwise (ISCA'24) plays them, and BurstGPT.
"""

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from kvtide_operator.workload.readers.columns import MAX_TOKENS, Columns
from kvtide_operator.workload.readers.text import TraceText
from kvtide_operator.workload.trace import Trace, TraceError

BLOCK_TOKENS = 512
"""What the trace says of a block's size when nobody does; without blocks nothing depends on it."""


def _seconds(text: str) -> float:
    return float(text)


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True, slots=True)
class Lengths:
    """A format: the names of the three columns that count, and how a time is written; others are left out."""

    name: str
    arrival: str
    prompt: str
    answer: str
    time: Callable[[str], float]
    example: str


FORMATS = (
    Lengths("Splitwise", "arrived_at", "num_prefill_tokens", "num_decode_tokens", _seconds, "4.31"),
    Lengths("Azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", _moment, "2023-11-16 18:15:46.68"),
    Lengths("BurstGPT", "Timestamp", "Request tokens", "Response tokens", _seconds, "45"),
)


def format_of(first_line: bytes) -> Lengths | None:
    """The format whose columns this line names; None where it is no such header."""
    names = set(_cells(first_line.decode(errors="replace")))
    return next((each for each in FORMATS if names >= {each.arrival, each.prompt, each.answer}), None)


def parse(text: TraceText, block_tokens: int | None, known: Lengths) -> Trace:
    """The trace in this text, without blocks.

    Raises:
        TraceError: a line is malformed, time goes back, or there is no request.
    """
    rows = list(_rows(text, known))
    if not rows:
        raise TraceError(f"{text.name}: the trace is empty; give one with at least one request")
    arrived_s, prompt, answer = zip(*rows, strict=True)
    columns = Columns(
        text,
        row=np.arange(1, len(rows) + 1),
        timestamp=np.array(arrived_s, dtype=np.float64),
        input_tokens=np.array(prompt, dtype=np.int32),
        output_tokens=np.array(answer, dtype=np.int32),
        block_count=np.zeros(len(rows), dtype=np.int64),
        ids=np.zeros(0, dtype=np.int64),
    )
    columns.require_rising()
    return columns.trace(
        BLOCK_TOKENS if block_tokens is None else block_tokens,
        seconds=1.0,
        started_at_s=arrived_s[0] if known.time is _moment else 0.0,
    )


def _rows(text: TraceText, known: Lengths) -> Iterator[tuple[float, int, int]]:
    header: list[str] | None = None
    places: tuple[int, int, int] = (0, 0, 0)
    for number, line in enumerate(text.data.split(b"\n"), 1):
        if not line.strip():
            continue
        cells = _cells(line.decode(errors="replace"))
        if header is None:
            header = cells
            places = header.index(known.arrival), header.index(known.prompt), header.index(known.answer)
            continue
        try:
            yield _row(cells, header, places, known)
        except ValueError as error:
            shown = line.strip()[:80].decode(errors="replace")
            raise text.error(number, f"{shown!r} {error}") from None


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line.strip()]), [])]


def _row(
    cells: list[str], header: list[str], places: tuple[int, int, int], known: Lengths
) -> tuple[float, int, int]:
    if len(cells) != len(header):
        raise ValueError(f"has {len(cells)} values, not the {len(header)} of {','.join(header)}")
    at, prompt, answer = (cells[place] for place in places)
    try:
        arrived_s, prompt_tokens, answer_tokens = known.time(at), int(prompt), int(answer)
    except (ValueError, OverflowError):
        raise ValueError(f"is not a time such as {known.example} and two whole numbers of tokens") from None
    if not (
        0 <= arrived_s < math.inf and 0 <= prompt_tokens <= MAX_TOKENS and 0 <= answer_tokens <= MAX_TOKENS
    ):
        raise ValueError(f"is out of range: times from 0, tokens from 0 to {MAX_TOKENS}")
    return arrived_s, prompt_tokens, answer_tokens
