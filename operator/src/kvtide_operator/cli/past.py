"""What `kvtide plan` plans on: a trace file, or a period of a recorded history."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path

from kvtide_operator.api.quantity import parse_duration
from kvtide_operator.cli.errors import UserError
from kvtide_operator.plan.periods import planning_window, requests_in
from kvtide_operator.workload.readers import read_trace
from kvtide_operator.workload.trace import Trace

DEFAULT_PERIOD = "1h"


@dataclass(frozen=True, slots=True)
class Past:
    """What to plan on.

    Attributes:
        trace: the requests to plan on.
        following: the requests of the period the plan is for, to judge it by; None unless asked for.
        name: what people call it.
    """

    trace: Trace
    following: Trace | None
    name: str


def look_back(source: str, at: str | None, period: str | None, *, with_following: bool) -> Past:
    """The trace in ``source``, a file of a known format or the URL or folder of a history.

    A file is taken whole; with the following period, its first half is planned on and its second judged by.
    Of a history, the plan is for the ``period`` from ``at`` on: the same slot of the week before, or else the
    period before it. ``at`` is the history's end, or, with the following period, one period before it.

    Raises:
        TraceError: neither can be read.
        UserError: an option makes no sense here.
    """
    if "://" in source or Path(source).is_dir():
        return _from_history(source, at, period or DEFAULT_PERIOD, with_following)
    for option, value in (("--at", at), ("--period", period)):
        if value is not None:
            raise UserError(
                f"{option} {value}: {source} is no history; give its folder or URL, or leave it out"
            )
    trace, name = read_trace(source), Path(source).name
    if not with_following:
        return Past(trace, None, name)
    middle_s = trace.span_s / 2
    first, second = requests_in(trace, 0.0, middle_s), requests_in(trace, middle_s, inf)
    if not first.requests or not second.requests:
        raise UserError(
            f"--evaluate-next: {source} has no requests in one of its halves; give a longer trace"
        )
    return _noted(first, second, f"the first half of {name}")


def _from_history(source: str, at: str | None, period: str, with_following: bool) -> Past:
    # Imported here: who plans on a file need not wait for the Parquet library.
    from kvtide_operator.history.recorded import HistoryError, RecordedHistory, utc

    history, period_s, at_s = RecordedHistory(source), _seconds(period), None if at is None else _unix_s(at)
    covered = history.span()
    if covered is None:
        raise UserError(f"{source}: there is no period of a history that can be read; record one first")
    if at_s is None:
        at_s = covered.end_s - period_s if with_following else covered.end_s
    if at_s <= covered.start_s:
        raise UserError(
            f"{source}: there is nothing before {utc(at_s)} to plan on; the history goes from "
            f"{utc(covered.start_s)} to {utc(covered.end_s)}: plan for a later time, or shorten --period"
        )
    window = planning_window(covered.start_s, at_s, period_s)
    try:
        trace = history.read(window.start_s, window.end_s)
    except HistoryError:
        if not window.seasonal:
            raise
        window = planning_window(covered.start_s, at_s, period_s, None)
        trace = history.read(window.start_s, window.end_s)
    following = history.read(at_s, at_s + period_s) if with_following else None
    which = "the same slot of the week before" if window.seasonal else "the time before"
    span = f"{utc(window.start_s)} to {utc(window.end_s)}"
    return _noted(trace, following, f"{which}, {span}, for {utc(at_s)}")


def _noted(trace: Trace, following: Trace | None, name: str) -> Past:
    return Past(replace(trace, notes=(f"planned on {name}", *trace.notes)), following, name)


def _seconds(period: str) -> float:
    try:
        period_s = parse_duration(period)
    except ValueError as error:
        raise UserError(f"--period: {error}") from None
    if period_s <= 0:
        raise UserError(f"--period {period}: give more than 0s, such as {DEFAULT_PERIOD}")
    return period_s


def _unix_s(at: str) -> float:
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise UserError(f"--at {at}: write a time such as 2026-11-21T13:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
