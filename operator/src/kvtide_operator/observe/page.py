"""What a node tells of its access trace at a time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """Trace lines as a node told them, and how many it had dropped before they could be read."""

    lines: bytes
    gap_lines: int = 0
