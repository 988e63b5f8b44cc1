from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from kvtide_operator.api.moment import Time, format_figure, format_time, parse_time, rounded

MOMENT = TypeAdapter(Time)


@given(st.integers(0, 2**32))
def test_times_read_back(seconds: int) -> None:
    assert parse_time(format_time(seconds)) == seconds


def test_times_are_rfc_3339_in_utc() -> None:
    assert format_time(1769860800.9) == "2026-01-31T12:00:00Z"
    assert parse_time("2026-01-31T13:00:00+01:00") == 1769860800
    assert parse_time(datetime(2026, 1, 31, 12, tzinfo=UTC)) == 1769860800
    assert MOMENT.dump_python(1769860800.0, mode="json") == "2026-01-31T12:00:00Z"


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="'noon' is not a time; write for example 2026-01-31T12:00:00Z"):
        MOMENT.validate_python("noon")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.31234, "0.3123"),
        (12345.6, "12350"),
        (-0.2, "-0.2"),
        (1e-13, "0"),
        (2.5, "2.5"),
        (-1e30, "-999000000000000000"),
    ],
)
def test_figures_have_four_digits_and_no_exponent(value: float, text: str) -> None:
    assert format_figure(value) == text


@given(st.floats(-1e12, 1e12))
def test_a_written_figure_is_written_the_same_again(value: float) -> None:
    assert format_figure(rounded(value)) == format_figure(value)
    assert rounded(value) == pytest.approx(value, rel=1e-3, abs=1e-11)
