"""Times and figures of a status, in the one form in which they are written."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

MOST_FIGURE: Final = 9.99e17
"""A status takes figures of 18 digits."""


def format_time(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC, to the second, as Kubernetes writes its times."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(value: Any) -> Any:
    """Seconds since the epoch of an RFC 3339 time.

    Raises:
        ValueError: the text is no such time.
    """
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a time; write for example 2026-01-31T12:00:00Z") from None
    if isinstance(moment, datetime):  # which is what YAML makes of a bare time
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    return value


def format_figure(value: float) -> str:
    """Four significant digits, without an exponent: ``0.31234`` is ``0.3123``."""
    value = max(min(value, MOST_FIGURE), -MOST_FIGURE)
    text = f"{float(f'{value:.4g}'):.12f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def rounded(value: float) -> float:
    """What `format_figure` leaves of a value."""
    return float(format_figure(value))


Time = Annotated[
    float,
    BeforeValidator(parse_time),
    PlainSerializer(format_time, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A moment: RFC 3339 in YAML, seconds since the epoch in Python."""

Figure = Annotated[
    float,
    PlainSerializer(format_figure, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "maxLength": 32, "pattern": r"^-?[0-9]{1,18}(\.[0-9]{1,12})?$"}),
]
"""A measured or simulated figure: a decimal string in YAML, a float in Python."""
