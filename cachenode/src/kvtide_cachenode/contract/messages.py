"""What the admin API says and takes, as the node writes it and the client reads it."""

import json
from collections import Counter
from typing import Annotated, Any, Final, TypeVar

import msgspec

from kvtide_cachenode.cluster.topology import MAX_DEADLINE_S, Topology
from kvtide_cachenode.contract import documents

API_VERSION: Final = "v1"
# Headers of GET /v1/trace: where to read on, and how many lines were lost before the first one.
TRACE_NEXT: Final = "Kvtide-Trace-Next"
TRACE_GAP: Final = "Kvtide-Trace-Gap"
# Idle time-outs of one document; the operator gives at most 126.
MAX_GROUPS: Final = 4096


T = TypeVar("T")
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class TierStatus(msgspec.Struct, frozen=True):
    """One tier as it is. ``max_bytes`` is the largest capacity this machine, container or disk allows now.

    Of the SSD tier ``resident_bytes`` is what the disk holds, ``wasted_bytes`` what of it no entry needs.
    """

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
    """The access trace: where its end is, lines that can be read, lines that are gone.

    ``unreliable`` counts the inferred lines since the start that may be no requests, by `trace_line.Doubt`.
    """

    next: str
    lines: int
    gap_lines: int
    unreliable: dict[str, int] = {}


class ClusterStatus(msgspec.Struct, frozen=True):
    """The node's part in its cluster: the topology it has adopted, its epoch (0: none) and what it hears.

    ``heard`` are the epochs of other members by node id. ``slots`` are owned ones. ``emptied`` says that no
    entry is left of slots that move away; ``moved`` entries were sent to other nodes and ``left`` ones, in a
    slot move, were not. Commands were ``forwarded`` to their keys' owners, or their clients ``redirected``.
    """

    node_id: str
    epoch: int
    slots: int
    heard: dict[str, int]
    emptied: bool
    moved_entries: int
    moved_bytes: int
    left_entries: int
    left_bytes: int
    forwarded: int
    forwarded_bytes: int
    forward_failures: int
    redirected: int
    topology: Topology | None = None


class Version(msgspec.Struct, frozen=True):
    """Which `Desired` document: its term and its generation."""

    term: int
    generation: int


class IdleTimeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Seconds that an SSD entry is kept after its last use: by subtree root, and for all other keys.

    0 keeps nothing; None keeps until the space is needed.
    """

    groups: Annotated[dict[str, Seconds], msgspec.Meta(max_length=MAX_GROUPS)] = {}
    other: Seconds | None = None


class NodeStatus(msgspec.Struct, frozen=True):
    """Answer to GET /v1/status, PUT /v1/capacity and PUT /v1/desired.

    ``desired`` is the newest document this node has, ``applied`` the newest that holds in full. ``listen`` is
    where it serves clients, ``HOST:PORT`` as bound; ``keeps_state`` says that its id and its newest document
    outlive a restart; ``ttl_s`` is in force on its SSD, None where it has none. ``trouble`` is a sentence on
    what is wrong with its SSD now.
    """

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
    cluster: ClusterStatus | None = None
    desired: Version | None = None
    applied: Version | None = None
    listen: str | None = None
    keeps_state: bool = False
    ttl_s: IdleTimeouts | None = None
    trouble: str | None = None


class DrainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/drain: how long sending entries may take."""

    deadline_s: Annotated[float, msgspec.Meta(ge=0, le=MAX_DEADLINE_S)] = 60.0


class DrainReply(msgspec.Struct, frozen=True):
    """What a drain did. ``complete``: every member knows that this node owns nothing now. When it is not and
    the node still owns slots, it is ready and serves them, as before.

    ``left`` entries stayed behind: peers had no room for them, or time was up.
    """

    complete: bool
    moved_entries: int
    moved_bytes: int
    left_entries: int
    left_bytes: int
    elapsed_s: float


class CapacityRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of PUT /v1/capacity: bytes, or a quantity such as "512Mi"; a tier that is not named stays."""

    dram: int | str | None = None
    ssd: int | str | None = None


class Desired(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of PUT /v1/desired. A higher (term, generation) replaces a lower one; what is None stays."""

    term: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    generation: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    capacity: CapacityRequest | None = None
    ttl_s: IdleTimeouts | None = None
    topology: Topology | None = None


class ErrorReply(msgspec.Struct, frozen=True):
    """Body of every refusal: one sentence."""

    error: str


def decode(document: bytes, kind: type[T]) -> T:
    """A document from somebody else.

    Raises:
        ValueError: it is none of this kind; one sentence.
    """
    decoded = documents.decode(document, kind)
    # Of a name that is there twice, one value is not what was meant.
    json.loads(document, object_pairs_hook=_all_different)
    return decoded


def _all_different(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice, _ = Counter(names).most_common(1)[0]
        raise ValueError(f"{twice[:100]!r} is there twice")
