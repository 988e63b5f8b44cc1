"""Everything that a server may do wrong comes back as a sentence, in bounded time."""

import json
from urllib.parse import parse_qs, urlparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.observe.prometheus import session as sessions
from kvtide_operator.observe.prometheus import source as sources
from kvtide_operator.observe.prometheus.promql import SelectorError, Series, quoted
from kvtide_operator.observe.prometheus.query import PrometheusAccess
from kvtide_operator.observe.prometheus.source import PrometheusSource
from kvtide_operator.world.metrics import EngineMetrics, Missing, Value, known

NOW_S = 1_700_000_000.0


def vector(*rows: tuple[dict[str, str], str], **more: object) -> dict[str, object]:
    result = [{"metric": labels, "value": [NOW_S, value]} for labels, value in rows]
    return {"status": "success", "data": {"resultType": "vector", "result": result}, **more}


@pytest.fixture
def read(scripted, threads):
    async def once(url: str | None = None, request_timeout_s: float = 20.0, **access: str) -> EngineMetrics:
        source = PrometheusSource(
            PrometheusAccess(url=url or scripted.url, **access),
            "VLLM",
            {"model_name": "m"},
            stale_after_s=60.0,
            executor=threads,
            request_timeout_s=request_timeout_s,
        )
        return await source.read(NOW_S, 60.0)

    return once


def why(metrics: EngineMetrics) -> str:
    """The one reason for which nothing is known."""
    (reason,) = {reading.why for _, reading in metrics.readings() if isinstance(reading, Missing)}
    assert not [name for name, reading in metrics.readings() if known(reading) is not None]
    return reason


async def test_a_server_that_never_answers(scripted, read):
    assert why(await read(request_timeout_s=0.5)) == f"{scripted.url}: did not answer within 0.5 s"
    assert len(scripted.requests) == 1  # a time-out is not tried again


async def test_nobody_listens(read):
    assert "cannot be reached" in why(await read(url="http://127.0.0.1:9"))


async def test_errors_that_pass_are_tried_again(scripted, read):
    scripted.answer(503, b"starting")
    scripted.answer(429, b"slowly", **{"Retry-After": "3600"})
    scripted.answer(200, vector(({}, str(NOW_S))))
    scripted.answer(200, vector(({"reading": "running"}, "7"), ({"reading": "waiting"}, "0")))
    metrics = await read()
    assert (metrics.running, metrics.waiting) == (Value(NOW_S, 7.0), Value(NOW_S, 0.0))
    assert isinstance(metrics.instances, Missing)


async def test_an_error_that_stays_is_said(scripted, read):
    scripted.answer(500, b"out of memory")
    assert "answered HTTP Status Code 500" in why(await read())
    assert len(scripted.requests) == 3


async def test_a_refusal_is_not_tried_again(scripted, read):
    scripted.answer(401, b"who are you")
    assert "401" in why(await read())
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>hello</html>",
        b"",
        b"[1, 2]",
        b'"text"',
        b'{"status": "success"}',
        b'{"data": {"result": {"a": 1}}}',
        b'{"data": {"result": [1]}}',
        b'{"data": {"result": [{"metric": {}, "value": [1, "one"]}]}}',
        b'{"data": {"result": [{"metric": {}, "values": [[1, "1"]]}]}}',
    ],
)
async def test_answers_that_are_no_prometheus(scripted, read, answer):
    scripted.answer(200, answer)
    assert "is this Prometheus?" in why(await read())


async def test_a_redirect_is_named_and_not_followed(scripted, read):
    scripted.answer(302, b"", Location="https://login.example.com/")
    reason = why(await read(token="secret"))
    assert "https://login.example.com/; name that as metrics.prometheus.url" in reason
    assert len(scripted.requests) == 1


async def test_warnings_come_with_the_readings_and_are_bounded(scripted, read):
    said = [f"store {n} is away {'.' * 500}" for n in range(20)]
    scripted.answer(200, vector(({}, str(NOW_S)), warnings=["partial"], infos=["a hint"]))
    scripted.answer(200, vector(({"reading": "running"}, "7"), warnings=["partial", *said]))
    metrics = await read()
    assert metrics.running == Value(NOW_S, 7.0)
    assert metrics.warnings[:3] == ("partial", "a hint", said[0][: sessions.MAX_WARNING_CHARACTERS])
    assert len(metrics.warnings) == sessions.MAX_WARNINGS


async def test_warnings_of_a_failure_are_kept(scripted, read):
    scripted.answer(200, vector(({}, str(NOW_S)), warnings=["partial"]))
    scripted.answer(400, {"status": "error", "error": "too many samples"})
    metrics = await read()
    assert "too many samples" in why(metrics)
    assert metrics.warnings == ("partial",)


async def test_too_many_series(scripted, read):
    scripted.answer(200, vector(*[({"n": str(n)}, "1") for n in range(1001)]))
    assert "1001 series; narrow metrics.selector" in why(await read())


async def test_too_many_bytes(scripted, read):
    scripted.answer(200, b" " * (sessions.MAX_ANSWER_BYTES + 1))
    assert "longer than 4 MiB" in why(await read())


async def test_a_token_is_sent_and_a_query_is_bounded_in_length(scripted, read):
    scripted.answer(200, vector(({}, str(NOW_S))))
    await read(token="secret")
    assert {headers["Authorization"] for _, headers in scripted.requests} == {"Bearer secret"}
    assert len(scripted.requests) > 2
    assert max(len(path) for path, _ in scripted.requests) < 8000
    asked = parse_qs(urlparse(scripted.requests[0][0]).query)
    assert (asked["time"], asked["timeout"]) == (["1700000000.000"], ["20s"])


async def test_an_authority_that_is_none_is_said(scripted, read):
    reason = why(await read(url=scripted.url.replace("http:", "https:"), ca_pem="no certificate"))
    assert "cannot be reached" in reason or "certificate" in reason


async def test_a_reading_ends_whatever_the_threads_do(scripted, read, monkeypatch):
    monkeypatch.setattr(sources, "READING_TIMEOUT_S", 0.1)
    assert "was not read within 0.1 s" in why(await read())


def test_a_label_that_cannot_be_is_refused():
    with pytest.raises(SelectorError, match="'a-b', which no label is called"):
        Series.of({"a-b": "x"}, 60)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_a_label_value_never_ends_its_literal(value):
    literal = quoted(value)
    assert literal[0] == literal[-1] == '"'
    # JSON unescapes the three that PromQL does, and would fail at any other end of the string.
    assert json.loads(literal, strict=False) == value
