"""What the admin API says and takes, as the node writes it and the client reads it."""

from typing import Final

import msgspec

API_VERSION: Final = "v1"
# Headers of GET /v1/trace: where to read on, and how many lines were lost before the first one.
TRACE_NEXT: Final = "Kvtide-Trace-Next"
TRACE_GAP: Final = "Kvtide-Trace-Gap"


class TierStatus(msgspec.Struct, frozen=True):
    """One tier as it is. ``max_bytes`` is the largest capacity this machine or container allows now."""

    capacity_bytes: int
    used_bytes: int
    resident_bytes: int
    wasted_bytes: int
    entries: int
    max_bytes: int


class ResizeProgress(msgspec.Struct, frozen=True):
    """A shrink under way: from which capacity to which, what is still used, and since when."""

    tier: str
    from_bytes: int
    to_bytes: int
    used_bytes: int
    resident_bytes: int
    elapsed_s: float


class TraceStatus(msgspec.Struct, frozen=True):
    """The access trace: where its end is, lines that can be read, lines that are gone."""

    next: str
    lines: int
    gap_lines: int


class NodeStatus(msgspec.Struct, frozen=True):
    """Answer to GET /v1/status and PUT /v1/capacity."""

    api_version: str
    version: str
    boot_id: str
    capabilities: list[str]
    uptime_s: float
    ready: bool
    tiers: dict[str, TierStatus]
    resize: ResizeProgress | None
    counters: dict[str, int]
    trace: TraceStatus


class CapacityRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PUT /v1/capacity: bytes, or a quantity such as "512Mi"."""

    dram: int | str


class ErrorReply(msgspec.Struct, frozen=True):
    """Body of every refusal: one sentence."""

    error: str
