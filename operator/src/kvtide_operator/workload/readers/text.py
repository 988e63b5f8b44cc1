"""A trace file's text: bounded, and able to say on which line something is wrong."""

from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from kvtide_operator.workload.readers.packed import PackedError, unpacked
from kvtide_operator.workload.trace import TraceError

MAX_FILE_BYTES = 4 << 30
"""A larger file is refused: its columns would not fit in the memory of a usual machine."""
MAX_LINE_BYTES = 8 << 20
"""A longer line is refused. A prompt of ten million tokens in blocks of 16 with 53-bit ids has about this."""

_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class TraceText:
    """The bytes of a trace and the name its errors carry."""

    name: str
    data: bytes

    @classmethod
    def read(cls, path: Path) -> "TraceText":
        """Read a file, packed or not, without the mark that some editors put before UTF-8.

        Raises:
            TraceError: it cannot be read or is too large.
        """
        try:
            with path.open("rb") as file:
                data = unpacked(file.read(MAX_FILE_BYTES + 1), MAX_FILE_BYTES)
        except OSError as error:
            raise TraceError(f"{path}: {error.strerror or error}") from error
        except PackedError as error:
            raise TraceError(f"{path}: {error}") from None
        if len(data) > MAX_FILE_BYTES:
            raise TraceError(f"{path}: its text is longer than {MAX_FILE_BYTES:,} bytes; split the trace")
        return cls(str(path), data.removeprefix(BOM_UTF8))

    def error(self, line: int, reason: str) -> TraceError:
        """The error for a line, counted from 1."""
        return TraceError(f"{self.name}:{line}: {reason}")

    def first_line(self) -> bytes:
        """The first line that is not blank, stripped and cut where it is too long."""
        begin = len(self.data) - len(self.data.lstrip())
        end = self.data.find(b"\n", begin, begin + MAX_LINE_BYTES)
        return self.data[begin : end if end >= 0 else begin + MAX_LINE_BYTES].strip()

    def line_of(self, row: int) -> int:
        """The number of the line that holds row ``row`` (from 0): blank lines hold none."""
        seen = -1
        for number, line in enumerate(self.data.split(b"\n"), 1):
            seen += bool(line.strip())
            if seen == row:
                return number
        raise AssertionError(f"row {row} is not in {self.name}")

    def chunks(self) -> Iterator[tuple[int, bytes]]:
        """Runs of whole lines of about ``MAX_LINE_BYTES``, each with the offset where it begins.

        Only these are held as Python objects at a time.
        """
        start = 0
        while start < len(self.data):
            cut = start + MAX_LINE_BYTES
            # A line of more than a chunk must cross the cut, so that looking there finds every one.
            end = self.data.find(b"\n", cut)
            end = len(self.data) if end < 0 else end + 1
            begin = max(self.data.rfind(b"\n", start, cut) + 1, start)
            if end - begin > MAX_LINE_BYTES + 1:
                line = self.data.count(b"\n", 0, begin) + 1
                raise self.error(line, f"the line is longer than {MAX_LINE_BYTES:,} bytes")
            yield start, self.data[start:end]
            start = end

    def rows(self, row_type: type[Row]) -> Iterator[list[Row]]:
        """The JSON lines, decoded and checked against ``row_type``, chunk by chunk.

        Raises:
            TraceError: a line is not what ``row_type`` says.
        """
        decoder = msgspec.json.Decoder(row_type)
        for start, chunk in self.chunks():
            try:
                rows = decoder.decode_lines(chunk)
            except _UNDECODABLE:
                raise self._culprit(decoder, start, chunk) from None
            # The decoder takes several values on a line, and one on several, for which no line can be named.
            if len(rows) != sum(1 for line in chunk.split(b"\n") if line.strip()):
                raise self._culprit(decoder, start, chunk)
            yield rows

    def _culprit(self, decoder: "msgspec.json.Decoder[Row]", start: int, chunk: bytes) -> TraceError:
        """The error of the first line of a chunk that cannot be decoded."""
        before = self.data.count(b"\n", 0, start)
        for number, line in enumerate(chunk.split(b"\n"), before + 1):
            try:
                if line.strip():
                    decoder.decode(line)
            except _UNDECODABLE as error:
                return self.error(number, str(error))
        raise AssertionError("every line decodes, the lines together do not")
