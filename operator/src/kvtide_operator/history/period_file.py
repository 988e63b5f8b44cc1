"""A period of a cache's history as the bytes of a Parquet file, and back.

Columns are those of a node's trace: ``timestamp`` (Unix ms), ``input_length``, ``output_length``,
``hash_ids``, ``weight``, ``observed_at``. The file's metadata holds what is no column: tokens in a block, and
where the period ends. Every page carries a checksum.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kvtide_operator.workload.trace import Trace, renumber

_SCHEMA = pa.schema(
    [
        pa.field("timestamp", pa.float64(), nullable=False),
        pa.field("input_length", pa.int32(), nullable=False),
        pa.field("output_length", pa.int32(), nullable=False),
        pa.field("hash_ids", pa.list_(pa.field("element", pa.int64(), nullable=False)), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("observed_at", pa.string(), nullable=False),
    ]
)
_BLOCK_TOKENS, _END_S = b"kvtide.block_tokens", b"kvtide.end_s"


class DamagedError(Exception):
    """Bytes that are no period; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Period:
    """What a file says.

    Attributes:
        rows: a row for each request, in order of arrival.
        block_tokens: tokens in a block.
        end_s: the second after the period's last, Unix time.
    """

    rows: pa.Table
    block_tokens: int
    end_s: float

    @property
    def blocks(self) -> int:
        """Block accesses of all its requests."""
        return int(pc.sum(pc.list_value_length(self.rows["hash_ids"])).as_py() or 0)

    def between(self, start_s: float, end_s: float) -> pa.Table:
        """The rows of requests that came from ``start_s`` until before ``end_s``."""
        stamp_ms = self.rows["timestamp"].to_numpy()
        first, last = np.searchsorted(stamp_ms, [start_s * 1e3, end_s * 1e3])
        return self.rows.slice(first, last - first)


def encode(trace: Trace, end_s: float) -> bytes:
    """The file of a period that ends at ``end_s``, Unix seconds."""
    columns = [
        (trace.started_at_s + trace.arrival_s) * 1e3,
        trace.input_tokens,
        trace.output_tokens,
        pa.ListArray.from_arrays(
            pa.array(trace.block_start, pa.int32()),
            pa.array(trace.block_ids[trace.blocks], pa.int64()),
            type=_SCHEMA.field("hash_ids").type,
        ),
        trace.weight,
        pa.array([trace.observed_at] * trace.requests, pa.string()),
    ]
    said = {_BLOCK_TOKENS: str(trace.block_tokens), _END_S: repr(float(end_s))}
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata(said)),
        sink,
        compression="zstd",
        write_page_checksum=True,
    )
    return bytes(sink.getvalue().to_pybytes())


def decode(data: bytes) -> Period:
    """The period in the bytes of a file.

    Raises:
        DamagedError: they are no period, or not the one that was written.
    """
    try:
        rows = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(str(error).partition("\n")[0]) from None
    said = rows.schema.metadata or {}
    if not rows.schema.equals(_SCHEMA) or not {_BLOCK_TOKENS, _END_S} <= said.keys():
        raise DamagedError("its columns are not those of a period")
    try:
        block_tokens, end_s = int(said[_BLOCK_TOKENS]), float(said[_END_S])
    except ValueError:
        raise DamagedError("its metadata is not that of a period") from None
    stamp_ms, weight = rows["timestamp"].to_numpy(), rows["weight"].to_numpy()
    ids = rows["hash_ids"].combine_chunks().flatten()
    sound = (
        block_tokens > 0
        and (np.diff(stamp_ms) >= 0).all()
        and (weight > 0).all()
        and not any(column.null_count for column in rows.columns)
        and all(
            (pc.min(values).as_py() or 0) >= 0
            for values in (rows["input_length"], rows["output_length"], ids)
        )
        and pc.all(pc.is_in(rows["observed_at"], pa.array(["engine", "node"]))).as_py() is not False
    )
    if not sound:
        raise DamagedError("it holds values that no request has")
    return Period(rows, block_tokens, end_s)


def trace_of(rows: pa.Table, block_tokens: int, notes: tuple[str, ...]) -> Trace:
    """The trace of one or more rows in order of arrival: the engines' rows if there are any.

    What nodes inferred is left out beside them, as in `workload.readers.node`, and a note says so.
    """
    engine = np.array(pc.equal(rows["observed_at"], "engine"), dtype=bool)
    if engine.any() and not engine.all():
        notes = (
            *notes,
            f"{(~engine).sum():,} requests that nodes inferred are left out, as engines told theirs",
        )
        rows = rows.filter(engine)
    arrival_s = rows["timestamp"].to_numpy() * 1e-3
    lists = rows["hash_ids"].combine_chunks()
    blocks, block_ids = renumber(lists.flatten().to_numpy())
    return Trace(
        arrival_s=arrival_s - arrival_s[0],
        input_tokens=rows["input_length"].to_numpy(),
        output_tokens=rows["output_length"].to_numpy(),
        block_start=np.concatenate(([0], np.cumsum(lists.value_lengths().to_numpy()))),
        blocks=blocks,
        block_ids=block_ids,
        weight=rows["weight"].to_numpy(),
        block_tokens=block_tokens,
        observed_at="engine" if engine.any() else "node",
        started_at_s=float(arrival_s[0]),
        notes=notes,
    )
