"""History: what was asked of a cache, period after period, as files at any URL that fsspec knows.

A period is one file, named by its UTC start, such as ``20261121T130000Z.parquet``; `period_file` says what is
in it. It is written under another name and then moved, so that readers never see half of it, and it is never
changed. One writer at a time; readers need no lock.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from math import inf
from urllib.parse import parse_qsl, urlsplit

import fsspec
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow.fs import FileSystem, S3FileSystem, resolve_s3_region

from kvtide_operator.history.period_file import DamagedError, Period, decode, encode, trace_of
from kvtide_operator.workload.trace import Trace, TraceError

MAX_READ_BYTES = 1 << 30
"""Bytes of files that one look into the past may read; a longer look is refused."""
MAX_READ_BLOCKS = 200_000_000
"""Block accesses of one look: 1.6 GB of ids. Files are compressed, so that their size alone is no bound."""

SUFFIX = ".parquet"
UNFINISHED = ".part"
_START = "%Y%m%dT%H%M%SZ"


class HistoryError(TraceError):
    """A history that cannot be used; the message names the URL and the cure."""


@dataclass(frozen=True, slots=True)
class Span:
    """What a history covers, gaps included: Unix seconds, the end not included."""

    start_s: float
    end_s: float


class RecordedHistory:
    """The periods at a URL: ``file:///var/lib/kvtide``, ``s3://bucket/prefix``, or a plain path.

    S3 is spoken by Arrow, which is there for Parquet. Credentials, region and endpoint are those of the AWS
    environment variables, files and instance roles, or ``keys``, by the names of those variables.

    Raises:
        HistoryError: nothing installed speaks the URL's protocol.
    """

    def __init__(self, url: str, keys: Mapping[str, str] | None = None) -> None:
        self.url = url
        with self._speaking():
            self._files, self._root = _opened(url) if keys is None else _opened_with(url, keys)

    def write(self, trace: Trace, start_s: float, end_s: float, keep_s: float = inf) -> None:
        """Add a period, then forget those that ended ``keep_s`` or more before its end.

        Args:
            trace: all requests of the period; that there were none is worth knowing, too.
            start_s: its first second, Unix time, whole.
            end_s: the second after its last.
            keep_s: how much history to keep, in seconds.

        Raises:
            HistoryError: the period does not follow those that are there, or the storage refuses.
        """
        assert start_s == int(start_s) < end_s
        if trace.requests:
            assert start_s <= trace.started_at_s <= trace.started_at_s + trace.span_s < end_s
        name = datetime.fromtimestamp(start_s, UTC).strftime(_START) + SUFFIX
        names, covered = self._names(), self.span()
        if covered and (start_s < covered.end_s or name <= names[-1]):
            raise HistoryError(
                f"{self.url}: a period from {utc(start_s)} would lie before the history's end, "
                f"{utc(covered.end_s)}; add only what comes after"
            )
        data = encode(trace, end_s)
        with self._speaking():
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(self._path(name + UNFINISHED), data)
            self._files.mv(self._path(name + UNFINISHED), self._path(name))
        self._forget(end_s - keep_s)

    def span(self) -> Span | None:
        """What the history covers; None where it has no period that can be read.

        Raises:
            HistoryError: the storage refuses.
        """
        names = self._names()
        for name in reversed(names):
            try:
                return Span(_start_s(names[0]), decode(self._bytes(name)).end_s)
            except DamagedError:
                continue
        return None

    def read(self, start_s: float, end_s: float) -> Trace:
        """The requests from ``start_s`` until before ``end_s``; its notes say what is missing.

        Raises:
            HistoryError: there are none, or too many, or blocks of different sizes; or the storage refuses.
        """
        names = self._names()
        following_s = [*map(_start_s, names[1:]), inf]
        wanted = [
            name
            for name, next_s in zip(names, following_s, strict=True)
            if _start_s(name) < end_s and next_s > start_s
        ]
        periods, notes = self._periods(wanted)
        covered_s = sum(
            max(min(period.end_s, end_s) - max(_start_s(name), start_s), 0.0)
            for name, period in periods.items()
        )
        if covered_s < end_s - start_s:
            lack_s = end_s - start_s - covered_s
            notes.append(f"the history lacks {lack_s:,.0f} s of the {end_s - start_s:,.0f} s looked at")
        return self._trace(list(periods.values()), start_s, end_s, notes)

    def _trace(self, periods: Sequence[Period], start_s: float, end_s: float, notes: list[str]) -> Trace:
        where = f"{self.url}: from {utc(start_s)} to {utc(end_s)}"
        parts = [(period.block_tokens, period.between(start_s, end_s)) for period in periods]
        parts = [(block_tokens, rows) for block_tokens, rows in parts if len(rows)]
        if not parts:
            why = "; ".join(notes) or "nobody asked for anything"
            raise HistoryError(f"{where} there are no requests ({why}); look at another time")
        sizes = sorted({block_tokens for block_tokens, _ in parts})
        if len(sizes) > 1:
            raise HistoryError(
                f"{where} there are blocks of {sizes[0]} and of {sizes[-1]} tokens; "
                "look at a time with one size"
            )
        return trace_of(pa.concat_tables([rows for _, rows in parts]), sizes[0], tuple(notes))

    def _periods(self, names: Sequence[str]) -> tuple[dict[str, Period], list[str]]:
        """The readable periods by name, and a note on each of the others."""
        with self._speaking():
            size = sum(self._files.sizes([self._path(name) for name in names]))
        if size > MAX_READ_BYTES:
            raise HistoryError(
                f"{self.url}: {len(names)} periods of {size:,} bytes are more than {MAX_READ_BYTES:,}; "
                "look at less"
            )
        periods: dict[str, Period] = {}
        notes, blocks = [], 0
        for name in names:
            try:
                periods[name] = decode(self._bytes(name))
            except DamagedError as error:
                notes.append(f"{name} is damaged and left out: {error}")
                continue
            blocks += periods[name].blocks
            if blocks > MAX_READ_BLOCKS:
                raise HistoryError(f"{self.url}: more than {MAX_READ_BLOCKS:,} blocks; look at less")
        return periods, notes

    def _names(self) -> list[str]:
        """Names of all periods, in order of time; other files are not the history's."""
        return [name for name in self._listed() if name.endswith(SUFFIX) and _is_start(name)]

    def _listed(self) -> list[str]:
        with self._speaking():
            self._files.invalidate_cache()
            try:
                paths = self._files.ls(self._root, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted(path.rpartition("/")[2] for path in paths)

    def _bytes(self, name: str) -> bytes:
        with self._speaking():
            return bytes(self._files.cat_file(self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _forget(self, before_s: float) -> None:
        """Remove what ended by ``before_s``, and what writers that died have left unfinished."""
        old = [name for name, following in pairwise(self._names()) if _start_s(following) <= before_s]
        unfinished = [name for name in self._listed() if name.endswith(SUFFIX + UNFINISHED)]
        with self._speaking():
            for name in old + unfinished:
                self._files.rm_file(self._path(name))

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each of fsspec's back ends has errors of its own
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise HistoryError(f"{self.url}: {reason}") from error


def _opened(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL, and the path in it."""
    if url.startswith("s3://"):
        # A period is then one PUT rather than an upload in parts, as far as it is small.
        bucket, root = FileSystem.from_uri(f"{url}{'&' if '?' in url else '?'}allow_delayed_open=true")
        return ArrowFSWrapper(bucket), root
    files, root = fsspec.core.url_to_fs(url)
    return files, root


def _opened_with(url: str, keys: Mapping[str, str]) -> tuple[fsspec.AbstractFileSystem, str]:
    """A bucket and the path in it, with these keys and no others."""
    parts = urlsplit(url)
    asked = dict(parse_qsl(parts.query))
    region = asked.get("region") or keys.get("AWS_REGION")
    if region is None and "endpoint_override" not in asked:
        region = resolve_s3_region(parts.netloc)
    bucket = S3FileSystem(
        access_key=keys["AWS_ACCESS_KEY_ID"],
        secret_key=keys["AWS_SECRET_ACCESS_KEY"],
        session_token=keys.get("AWS_SESSION_TOKEN"),
        region=region,
        endpoint_override=asked.get("endpoint_override"),
        scheme=asked.get("scheme"),
        allow_delayed_open=True,
    )
    return ArrowFSWrapper(bucket), parts.netloc + parts.path


def utc(at_s: float) -> str:
    """A time as people write it, such as ``2026-11-21T13:00:00Z``."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _start_s(name: str) -> float:
    return datetime.strptime(name.removesuffix(SUFFIX), _START).replace(tzinfo=UTC).timestamp()


def _is_start(name: str) -> bool:
    try:
        _start_s(name)
    except ValueError:
        return False
    return True
