"""What the log answers: typed results instead of exceptions, and its counters."""

import asyncio
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Refusal(enum.StrEnum):
    """Why a value was not stored. The key then has no value in the log."""

    QUEUE_FULL = "queue_full"  # too many writes, or bytes of them, are waiting
    READ_ONLY = "read_only"  # writes failed in a row; tried again after a back-off
    OVER_BUDGET = "over_budget"  # the write-rate budget is spent
    TTL_ZERO = "ttl_zero"  # the group's entries are not kept
    TOO_LARGE = "too_large"  # key or value is beyond the limits, or larger than the tier
    NO_SPACE = "no_space"  # cleaning freed nothing, or the disk is full
    IO_ERROR = "io_error"  # the device failed
    SLOW = "slow"  # the write did not end in time
    SUPERSEDED = "superseded"  # the key was written again or deleted meanwhile
    CLOSED = "closed"  # the log is closing


class Miss(enum.StrEnum):
    """Why a value was not read."""

    ABSENT = "absent"
    EXPIRED = "expired"
    CORRUPT = "corrupt"  # a checksum differs; the entry is gone now
    IO_ERROR = "io_error"
    SLOW = "slow"  # not read in time
    QUEUE_FULL = "queue_full"  # too many reads are waiting
    TARGET_TOO_SMALL = "target_too_small"  # the key got a longer value since its size was asked for
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Stored:
    """A value is in the log: it outlives the process from here on."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A value is not in the log."""

    reason: Refusal


@dataclass(frozen=True, slots=True)
class Missed:
    """A read gave no value; the target's contents are undefined.

    ``settled``, only with SLOW: the device may still write into the target until this future is done, so its
    memory must be kept until then.
    """

    reason: Miss
    settled: asyncio.Future[Any] | None = None


@dataclass(slots=True)
class Counters:
    """What happened since the start, in events and bytes."""

    stored: int = 0
    stored_bytes: int = 0
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, Refusal), 0))
    hits: int = 0
    hit_bytes: int = 0
    missed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, Miss), 0))
    deletes: int = 0
    written_bytes: int = 0
    moved: int = 0
    moved_bytes: int = 0
    evicted: int = 0
    expired: int = 0
    segments_cleaned: int = 0
    segments_given_up: int = 0
    write_errors: int = 0
    read_errors: int = 0
    snapshots: int = 0
    snapshot_errors: int = 0


@dataclass(frozen=True, slots=True)
class SsdLogStats:
    """The log at one moment, in bytes; ``used_bytes`` is what the disk holds, writes under way included."""

    cap_bytes: int
    used_bytes: int
    live_bytes: int
    entries: int
    segments: int
    direct: bool
    read_only: bool
    cleaning: bool
    writes_waiting: int
    reads_waiting: int
    budget_bytes: float
    adopted: int
    torn: int
    counters: Mapping[str, int | Mapping[str, int]]
