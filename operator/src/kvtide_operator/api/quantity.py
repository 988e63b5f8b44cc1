"""Fields of the API in Kubernetes' quantities ("62.5Gi", "512M") and Go's durations ("1h30m")."""

import re
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from kvtide_cachenode.contract.quantity import (
    MAX_CHARS,
    PATTERN,
    format_quantity,
    parse_amount,
    parse_quantity,
)
from kvtide_operator.api.base import rule

__all__ = [
    "QUANTITY_PATTERN",
    "DeclaredDuration",
    "DeclaredQuantity",
    "Duration",
    "Quantity",
    "format_cpu",
    "format_duration",
    "format_quantity",
    "in_cel",
    "parse_cpu",
    "parse_duration",
    "parse_quantity",
    "rounded_quantity",
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

MOST_DECLARED = 64 << 50
"""Of any size or rate that is declared: what it costs, and sums of it, still are figures of a status."""
_MOST_DECLARED_SAID = "must be at most 64Pi; give for example 1Ti"
LONGEST_DECLARED_S = 87600 * 3600.0
_LONGEST_DECLARED_SAID = "must be at most 87600h, ten years; give for example 24h"
# Of a duration that it does not match, CEL's `duration` fails without a word that helps.
_SHORT_ENOUGH = (
    "^[+]?(0|(0*([0-9]{1,5}([.][0-9]*)?h|[0-9]{1,7}([.][0-9]*)?m|[0-9]{1,9}([.][0-9]*)?s|"
    "[0-9]{1,12}([.][0-9]*)?ms|[0-9]{1,15}([.][0-9]*)?(us|µs|μs)|[0-9]{1,18}([.][0-9]*)?ns)|"
    "[.][0-9]+(h|m|s|ms|us|µs|μs|ns))+)$"
)


def in_cel(duration: str) -> str:
    """A declared duration in a CEL rule; one that is too long is the longest, and refused by its own rule."""
    return f"({duration}.matches('{_SHORT_ENOUGH}') ? duration({duration}) : duration('87600h'))"


def parse_cpu(text: str) -> int:
    """Thousandths of a core, rounded up, in a Kubernetes quantity such as ``500m``, ``0.5`` or ``2``."""
    return ceil(parse_amount(text) * 1000)


def format_cpu(thousandths: int) -> str:
    """A quantity of CPU as the API server stores it: ``500`` is ``500m``, ``2000`` is ``2``."""
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


def rounded_quantity(amount: int) -> str:
    """A size for people, in three digits: ``4195416Ki`` is ``4Gi``, ``15161Mi`` is ``14.8Gi``."""
    size = float(amount)
    for suffix in ("", "Ki", "Mi", "Gi", "Ti", "Pi"):
        if size < 999.5 or suffix == "Pi":
            digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2
            text = f"{size:.{digits}f}"
            return (text.rstrip("0").rstrip(".") if digits else text) + suffix
        size /= 1024
    raise AssertionError("the largest unit takes all")


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


def _declared_bytes(value: int) -> int:
    if value > MOST_DECLARED:
        raise ValueError(_MOST_DECLARED_SAID)
    return value


def _declared_seconds(value: float) -> float:
    if value > LONGEST_DECLARED_S:
        raise ValueError(_LONGEST_DECLARED_SAID)
    return value


_QUANTITY_SCHEMA = {
    "x-kubernetes-int-or-string": True,
    "maxLength": MAX_CHARS,
    "pattern": QUANTITY_PATTERN,
}
_DURATION_SCHEMA = {"type": "string", "maxLength": MAX_CHARS, "pattern": DURATION_PATTERN}

Quantity = Annotated[
    int,
    BeforeValidator(_bytes_from),
    PlainSerializer(format_quantity, return_type=str, when_used="json"),
    WithJsonSchema(_QUANTITY_SCHEMA),
]
"""A field of bytes: a Kubernetes quantity in YAML, an int in Python."""

Duration = Annotated[
    float,
    BeforeValidator(_seconds_from),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema(_DURATION_SCHEMA),
]
"""A field of seconds: a Go-style duration in YAML, a float in Python."""

DeclaredQuantity = Annotated[
    Quantity,
    AfterValidator(_declared_bytes),
    WithJsonSchema(
        _QUANTITY_SCHEMA
        | {
            "x-kubernetes-validations": [
                rule("quantity(string(self)).compareTo(quantity('64Pi')) <= 0", _MOST_DECLARED_SAID)
            ]
        }
    ),
]
"""One that a user declares, which has a bound."""

DeclaredDuration = Annotated[
    Duration,
    AfterValidator(_declared_seconds),
    WithJsonSchema(
        _DURATION_SCHEMA
        | {
            "x-kubernetes-validations": [
                rule(
                    f"self.matches('{_SHORT_ENOUGH}') && duration(self) <= duration('87600h')",
                    _LONGEST_DECLARED_SAID,
                )
            ]
        }
    ),
]
"""One that a user declares, which has a bound."""
