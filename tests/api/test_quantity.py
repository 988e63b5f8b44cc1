import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.api.quantity import format_duration, format_quantity, parse_duration, parse_quantity


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
        ("0.3", 1),  # Kubernetes rounds a fraction of a byte up
    ],
)
def test_quantities_mean_what_kubernetes_means(text: str, amount: int) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize("text", ["", "Gi", "-1Gi", "1GB", "1 Gi", "1e3", "infGi", "1,5Gi"])
def test_what_is_no_quantity_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a quantity of bytes; write for example 512Mi"):
        parse_quantity(text)


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
    ],
)
def test_durations_mean_what_go_means(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("text", ["", "10", "1d", "-1s", "s", "1m 30s", "1h30"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration; write for example 30s"):
        parse_duration(text)


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


@given(st.integers(0, 10**15))
def test_written_durations_read_back_to_the_microsecond(micros: int) -> None:
    text = format_duration(micros / 1e6)
    assert parse_duration(text) == pytest.approx(micros / 1e6, abs=1e-6)
    assert format_duration(parse_duration(text)) == text
