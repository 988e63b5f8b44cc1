"""Quantities as Kubernetes reads them, durations as Go does: the documented grammars, by known answers."""

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kvtide_cachenode.contract.quantity import MOST, parse_amount
from kvtide_operator.api.base import Amount, Ratio
from kvtide_operator.api.quantity import (
    QUANTITY_PATTERN,
    format_cpu,
    format_duration,
    format_quantity,
    parse_cpu,
    parse_duration,
    parse_quantity,
    rounded_quantity,
)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("1073741824", 2**30),
        ("62.5Gi", 67108864000),
        ("64Mi", 2**26),
        ("512M", 512_000_000),
        ("1.5k", 1500),
        (".5Ki", 512),
        (".5Gi", 2**29),
        ("5.Gi", 5 * 2**30),
        ("+1", 1),
        ("0001Ki", 1024),
        ("0.3", 1),  # a fraction of a byte is rounded up
        ("1u", 1),
        ("1n", 1),
        ("1500m", 2),
        ("1288490188800m", (1288490188.8).__ceil__()),  # what the API server makes of 1.2Gi
        ("12e8", 1_200_000_000),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E+3", 1000),
        ("15e-1", 2),
        ("1E", 10**18),
        ("2P", 2 * 10**15),
        ("1Ti", 2**40),
        ("1Ei", 2**60),
        ("1e30", MOST),  # capped
        ("16Ei", MOST),
        ("1e999999999", MOST),
        ("1e-999999999", 1),
    ],
)
def test_quantities_mean_what_kubernetes_means(text: str, amount: int) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize(
    "text",
    ["", ".", "Gi", "1GB", "1 Gi", " 1", "1\n", "1gi", "1K", "1ki", "--1", "+-1", "infGi", "NaN", "1e",
     "1e3.5", "1e3Gi", "1,5Gi", "1_000", "0x10", "1.2.3Gi", "٣", "1i", "mi", "9" * 33],
)  # fmt: skip
def test_what_is_no_quantity_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a quantity; write for example 512Mi"):
        parse_quantity(text)
    assert len(text) > 32 or re.fullmatch(QUANTITY_PATTERN, text) is None


def test_a_size_is_not_below_zero() -> None:
    assert parse_amount("-1.5Gi") == -3 * 2**29
    with pytest.raises(ValueError, match="'-1Gi' is below zero"):
        parse_quantity("-1Gi")


@pytest.mark.parametrize(
    ("text", "thousandths"), [("500m", 500), ("0.5", 500), ("2", 2000), ("1u", 1), ("1k", 10**6)]
)
def test_cpu(text: str, thousandths: int) -> None:
    assert parse_cpu(text) == thousandths
    assert parse_cpu(format_cpu(thousandths)) == thousandths


@settings(deadline=None)
@given(
    st.integers(0, 10**9),
    st.sampled_from(["", "n", "u", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "E-2"]),
    st.integers(0, 6),
)
def test_every_form_of_a_number_is_the_same_number(digits: int, suffix: str, places: int) -> None:
    whole = f"{digits:0{places + 1}d}"
    text = f"{whole[: len(whole) - places]}.{whole[len(whole) - places :]}{suffix}"
    assert parse_amount(text) == parse_amount(f"{digits}{suffix}") / Fraction(10) ** places
    assert re.fullmatch(QUANTITY_PATTERN, text)


@settings(deadline=None)
@given(st.text("0123456789.+-eEinumkKMGTP ", max_size=8))
def test_the_schema_admits_exactly_what_is_read(text: str) -> None:
    try:
        parse_quantity(text)
        read = True
    except ValueError:
        read = False
    assert read == (re.fullmatch(QUANTITY_PATTERN, text) is not None) or "-0" in text


@pytest.mark.parametrize("text", ["0.00021", "12", "999999999.999999999999"])
def test_money_is_a_decimal_string(text: str) -> None:
    assert str(TypeAdapter(Amount).validate_python(text)) == text


@pytest.mark.parametrize("text", ["", "1e5", "-1", "NaN", "Infinity", "1_000", " 1", ".5", "1,5"])
def test_what_is_no_money_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="is not a decimal number; write for example"):
        TypeAdapter(Amount).validate_python(text)


@pytest.mark.parametrize("text", ["", "%", "nan", "nan%", "1e-1", "-5%", "101%", "1.5", "0.5 %", "x%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="is not a share; write for example"):
        TypeAdapter(Ratio).validate_python(text)


@settings(deadline=None)
@given(st.integers(0, 2**60))
def test_formatted_quantities_read_back_exactly(amount: int) -> None:
    assert parse_quantity(format_quantity(amount)) == amount


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("90s", 90),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("200us", 0.0002),
        ("168h", 604800),
        ("0", 0),
        ("+5s", 5),
        (".5h", 1800),
        ("5.s", 5),
        ("1ns", 1e-9),
        ("1us", 1e-6),
        ("1µs", 1e-6),
        ("1μs", 1e-6),
        ("1h1h", 7200),
        ("2562047h47m16.854775807s", 9223372036.854775807),
    ],
)
def test_durations_mean_what_go_means(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "10", "1d", "-1s", "s", ".s", "1m 30s", "1h30", "1S", "NaNs", "1s\n", "3000000h" + "0" * 40]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration; write for example 30s"):
        parse_duration(text)


def test_a_duration_has_gos_bound() -> None:
    with pytest.raises(ValueError, match="longer than 292 years"):
        parse_duration("2562048h")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (90, "1m30s"),
        (5400.5, "1h30m500ms"),
        (1.5, "1.5s"),
        (604800, "168h"),
        (0.25, "250ms"),
        (0.0002, "200us"),
    ],
)
def test_durations_are_written_as_go_reads_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@settings(deadline=None)
@given(st.integers(0, 10**15))
def test_written_durations_read_back_to_the_microsecond(micros: int) -> None:
    text = format_duration(micros / 1e6)
    assert parse_duration(text) == pytest.approx(micros / 1e6, abs=1e-6)
    assert format_duration(parse_duration(text)) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"), (1023, "1Ki"), (4195416 << 10, "4Gi"), (15161 << 20, "14.8Gi"), (1536 << 20, "1.5Gi"),
        (999 << 20, "999Mi"), (1000 << 20, "0.98Gi"), (960 << 30, "960Gi"), (1 << 62, "4096Pi"),
    ],
)  # fmt: skip
def test_sizes_for_people_have_three_digits(amount: int, text: str) -> None:
    assert rounded_quantity(amount) == text
