"""Kubernetes quantities for bytes ("62.5Gi", "512M") and Go-style durations ("1h30m")."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_SUFFIXES = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip
_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([kMGTP]|[KMGTP]i)?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)")
_SECONDS = {"us": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_quantity(text: str) -> int:
    """Bytes in a Kubernetes quantity; a fraction of a byte is rounded up, as Kubernetes does.

    Raises:
        ValueError: what was given and what a quantity looks like.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a quantity of bytes; write for example 512Mi, 62.5Gi or 1073741824"
        )
    amount = Decimal(match[1]) * _SUFFIXES[match[2] or ""]
    return int(amount.to_integral_value(rounding="ROUND_CEILING"))


def format_quantity(amount: int) -> str:
    """The shortest exact binary quantity: ``1610612736`` is ``1536Mi``."""
    for suffix in ("Pi", "Ti", "Gi", "Mi", "Ki"):
        if amount and amount % _SUFFIXES[suffix] == 0:
            return f"{amount // _SUFFIXES[suffix]}{suffix}"
    return str(amount)


def parse_cpu(text: str) -> int:
    """Thousandths of a core, rounded up, in a Kubernetes quantity such as ``500m``, ``0.5`` or ``2``."""
    cores = Decimal(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)
    return int((cores * 1000).to_integral_value(rounding="ROUND_CEILING"))


def format_cpu(thousandths: int) -> str:
    """A quantity of CPU as the API server stores it: ``500`` is ``500m``, ``2000`` is ``2``."""
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


def parse_duration(text: str) -> float:
    """Seconds, to the nanosecond, in a Go-style duration such as ``90s``, ``1h30m`` or ``0s``.

    Raises:
        ValueError: what was given and what a duration looks like.
    """
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration; write for example 30s, 10m or 1h30m")
    return round(sum(float(number) * _SECONDS[unit] for number, unit in parts), 9)


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
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            "pattern": r"^([0-9]{1,18}(\.[0-9]{0,9})?|\.[0-9]{1,9})([kMGTP]|[KMGTP]i)?$",
        }
    ),
]
"""A field of bytes: a Kubernetes quantity in YAML, an int in Python."""

Duration = Annotated[
    float,
    BeforeValidator(_seconds_from),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema(
        {"type": "string", "maxLength": 32, "pattern": r"^([0-9]{1,9}(\.[0-9]{1,9})?(us|ms|s|m|h))+$"}
    ),
]
"""A field of seconds: a Go-style duration in YAML, a float in Python."""
