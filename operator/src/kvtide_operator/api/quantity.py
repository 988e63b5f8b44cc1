"""Fields of the API in Kubernetes' quantities ("62.5Gi", "512M") and Go's durations ("1h30m")."""

import re
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from kvtide_cachenode.quantity import MAX_CHARS, PATTERN, format_quantity, parse_amount, parse_quantity

__all__ = [
    "QUANTITY_PATTERN",
    "Duration",
    "Quantity",
    "format_cpu",
    "format_duration",
    "format_quantity",
    "parse_cpu",
    "parse_duration",
    "parse_quantity",
]

QUANTITY_PATTERN = f"^{PATTERN}$"
_PART = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)"
DURATION_PATTERN = rf"^([+]?0|[+]?({_PART})+)$"
_DURATION = re.compile(DURATION_PATTERN)
_DURATION_PART = re.compile(_PART)
_NANOSECONDS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6,
    "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_LONGEST_NS = 2**63 - 1
"""What Go's durations hold: 292 years."""


def parse_cpu(text: str) -> int:
    """Thousandths of a core, rounded up, in a Kubernetes quantity such as ``500m``, ``0.5`` or ``2``."""
    return ceil(parse_amount(text) * 1000)


def format_cpu(thousandths: int) -> str:
    """A quantity of CPU as the API server stores it: ``500`` is ``500m``, ``2000`` is ``2``."""
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


def parse_duration(text: str) -> float:
    """Seconds, to the nanosecond, in a Go duration such as ``90s``, ``1h30m``, ``.5h`` or ``0``.

    Raises:
        ValueError: what was given and what a duration looks like.
    """
    if len(text) > MAX_CHARS or _DURATION.fullmatch(text) is None:
        shown = text[:MAX_CHARS]
        raise ValueError(f"{shown!r} is not a duration; write for example 30s, 10m or 1h30m")
    nanos = sum(Fraction(part[1]) * _NANOSECONDS[part[3]] for part in _DURATION_PART.finditer(text))
    if nanos > _LONGEST_NS:
        raise ValueError(f"{text} is longer than 292 years; give a shorter duration, such as 8760h")
    return int(nanos) / 1e9


def format_duration(seconds: float) -> str:
    """A duration to the microsecond, as Go reads it: ``90`` is ``1m30s``, ``0.0002`` is ``200us``."""
    micros = round(seconds * 1_000_000)
    hours, micros = divmod(micros, 3_600_000_000)
    minutes, micros = divmod(micros, 60_000_000)
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")
    for unit, size in (("s", 1_000_000), ("ms", 1000), ("us", 1)):
        if micros >= size:
            return f"{text}{Decimal(micros) / size:f}{unit}"
    return text or "0s"


def _bytes_from(value: Any) -> Any:
    return parse_quantity(str(value)) if isinstance(value, str | int | float) else value


def _seconds_from(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


Quantity = Annotated[
    int,
    BeforeValidator(_bytes_from),
    PlainSerializer(format_quantity, return_type=str, when_used="json"),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": MAX_CHARS, "pattern": QUANTITY_PATTERN}),
]
"""A field of bytes: a Kubernetes quantity in YAML, an int in Python."""

Duration = Annotated[
    float,
    BeforeValidator(_seconds_from),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "maxLength": MAX_CHARS, "pattern": DURATION_PATTERN}),
]
"""A field of seconds: a Go-style duration in YAML, a float in Python."""
