"""Exceptions nobody expected are counted each, and logged at a bounded rate."""

import logging

import pytest

from kvtide_cachenode.process.failures import Failures


def test_each_is_counted_and_few_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    now_s = [100.0]
    failures = Failures(lambda: now_s[0])
    for _ in range(3):
        failures.note("handler", ValueError("broken"), "GET")
    failures.note("sweep", ValueError("other"))
    now_s[0] += 1.0
    failures.note("handler", KeyError("later"))
    assert failures.total == {"handler": 4, "sweep": 1}
    told = [(vars(record)["where"], vars(record)["unlogged"]) for record in caplog.records]
    assert told == [("handler", 0), ("sweep", 0), ("handler", 2)]
    assert all(record.levelno == logging.ERROR and record.exc_info for record in caplog.records)
