"""What the planning process remembers of each cache, and the work it does on that.

These functions run in the planning process. Reading a node's trace does not consume it: when this process is
lost, its successor is told everything again.
"""

from dataclasses import dataclass, field, replace

from kvtide_operator.api.manifest import Manifest
from kvtide_operator.history.recorded import RecordedHistory
from kvtide_operator.history.season import Season
from kvtide_operator.observe.page import Page
from kvtide_operator.plan.kareto import Kareto
from kvtide_operator.plan.live import plan_window
from kvtide_operator.plan.modelled_speeds import speeds_of
from kvtide_operator.plan.proposal import Demand, Goal, Heard, Plan
from kvtide_operator.plan.speeds import Speeds
from kvtide_operator.planner.goal import options_of, space_of
from kvtide_operator.planner.history import TraceHistory
from kvtide_operator.planner.scenario import declared, scenario_from
from kvtide_operator.simulate.cache.curve import hit_curve
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.engine.pace import Pace
from kvtide_operator.simulate.prices import one_currency
from kvtide_operator.workload.generate import generate
from kvtide_operator.workload.trace import Trace, TraceError

WARM_UP_WINDOWS = 3
"""Trace kept, in windows: one to plan for, the rest to know what was already cached when it began."""
MAX_TRACE_BYTES = 128 << 20
"""Decoded trace kept of all caches together; beyond it the oldest of the cache with the most lines goes."""
CURVE_BREAKPOINTS = 1024
"""Of the curve that is handed out, which is looked at and compared, not planned with."""


@dataclass(slots=True)
class _Remembered:
    """``past`` is what is declared of the past that ``season`` keeps."""

    history: TraceHistory
    season: Season | None = None
    past: tuple[object, ...] = ()
    first_told_s: float | None = None
    window: tuple[Trace, int] | None = None


@dataclass
class _Memory:
    caches: dict[str, _Remembered] = field(default_factory=dict)

    def of_cache(self, key: str, manifest: Manifest) -> _Remembered:
        spec = manifest.cache.spec
        if key not in self.caches:
            self.caches[key] = _Remembered(TraceHistory(WARM_UP_WINDOWS * spec.scaling.window))
        remembered = self.caches[key]
        past = (spec.history, manifest.keys, spec.scaling.window, spec.scaling.season)
        if remembered.past != past:
            remembered.season, remembered.past = _season(manifest), past
        return remembered

    def make_room(self) -> None:
        histories = [remembered.history for remembered in self.caches.values()]
        while sum(history.kept_bytes for history in histories) > MAX_TRACE_BYTES:
            max(histories, key=lambda history: history.kept_bytes).forget_oldest()


_memory = _Memory()


def check(manifest: Manifest) -> str | None:
    """Why no load at all could be planned for; None where there is no such reason."""
    try:
        found = declared(manifest)
        one_currency(known.spec.price.currency for known in manifest.classes.values())
        goal_of(manifest)
        _season(manifest)
    except ValueError as error:
        return str(error)
    spec = manifest.cache.spec
    block_bytes = found["kv_bytes_per_token"] * spec.model.block_tokens
    block = f"a block of {spec.model.block_tokens} tokens of {spec.model.name} takes {block_bytes} bytes"
    if spec.dram.capacity.min < block_bytes:
        return (
            f"{block}, more than the least DRAM; raise capacity.min of tier {spec.dram.name} or lower "
            "model.blockTokens"
        )
    # Each GPU of an engine stores its own part of a block.
    entry_bytes = block_bytes // found["profile"].gpus
    nodes = spec.nodes.replicas.min
    if spec.dram.capacity.min // nodes < entry_bytes:
        return (
            f"{block}, more than each of {nodes} nodes has of the least DRAM; raise capacity.min of tier "
            f"{spec.dram.name}, or lower nodes.replicas.min or model.blockTokens"
        )
    return None


def take_in(
    key: str, manifest: Manifest, pages: tuple[Page, ...], now_s: float, before: Trace | None
) -> Heard:
    """Add what nodes told, and say what was asked of the cache within the window.

    Args:
        key: names the cache.
        manifest: what is declared of it now.
        pages: new trace lines.
        now_s: seconds since the epoch on the loop's clock.
        before: the workload to plan for until the nodes have seen one window of their own.
    """
    remembered = _memory.of_cache(key, manifest)
    for page in pages:
        remembered.history.add(page, now_s)
    remembered.history.forget_before(now_s)
    _memory.make_room()
    spec, notes, unreadable = manifest.cache.spec, [], []
    seen, slot = remembered.history.trace(spec.model.block_tokens), None  # first: it may be a problem
    complete = not any(page.gap_lines for page in pages) and not remembered.history.problems
    if remembered.history.problems:
        notes.append(f"trace lines were not read: {remembered.history.problems[-1]}")
    if remembered.history.gap_lines:
        notes.append(
            f"{remembered.history.gap_lines:,} trace lines were gone from the nodes before they were read"
        )
    if seen is not None and seen.unreliable:
        notes.append(seen.unreliable)
    try:
        if remembered.season is not None:
            remembered.season.keep(seen, now_s)
            slot = remembered.season.slot(now_s)
    except TraceError as error:
        notes.append(str(error))
        unreadable.append(str(error))
        complete = False  # nor is it known what the season's slot asks for
    window_s = spec.scaling.window
    told_s = now_s - seen.started_at_s if seen is not None else 0.0
    if seen is not None and remembered.first_told_s is None:
        remembered.first_told_s = seen.started_at_s
    watched_s = 0.0 if remembered.first_told_s is None else now_s - remembered.first_told_s
    past = slot if slot is not None else before if watched_s < window_s else None
    live = _within(seen, told_s, window_s)
    remembered.window = _within(past, past.span_s, window_s) if past is not None else live
    span_s = window_s if past is not None else min(watched_s, window_s)
    demand = _demand(*remembered.window, span_s) if remembered.window else None
    if demand is not None and past is not None:
        demand = replace(demand, seen_prefix_hit_ratio=_seen_hit_ratio(*live) if live else None)
    return Heard(demand, complete, tuple(notes), tuple(unreadable))


def search(
    key: str,
    manifest: Manifest,
    current: Configuration,
    roots: tuple[int, ...] = (),
    pace: Pace | None = None,
) -> tuple[Plan, Speeds] | None:
    """The plan for the window that `take_in` last saw, and how fast its chosen tiers are; None for no window.

    ``roots`` name the subtrees that ``current`` has TTLs for, as in `Plan`; ``pace`` is that of the engines,
    where it is known.

    Raises:
        SimulationError: the window cannot be simulated.
    """
    window = _memory.caches[key].window if key in _memory.caches else None
    if window is None:
        return None
    trace, first_request = window
    scenario = replace(scenario_from(manifest, trace, pace=pace), first_request=first_request)
    plan = plan_window(scenario, goal_of(manifest), current, roots)
    chosen = plan.chosen
    return plan, speeds_of(scenario, chosen.configuration, chosen.outcome.ssd_bytes)


def forget(key: str) -> None:
    """The cache is gone."""
    _memory.caches.pop(key, None)


def warm_up(manifest: Manifest) -> None:
    """Compile what planning needs: that takes a quarter of a minute the first time."""
    trace = generate(requests=20, rate_per_s=1.0, block_tokens=manifest.cache.spec.model.block_tokens)
    hit_curve(trace)
    goal = goal_of(manifest)
    plan_window(scenario_from(manifest, trace), goal, Configuration(goal.space.dram_min_bytes))


def goal_of(manifest: Manifest) -> Goal:
    """Bounds, constraints and objective that a manifest declares."""
    options = options_of(manifest, Kareto())
    ssd = manifest.cache.spec.ssd
    groups, depth = (ssd.ttl.groups, ssd.ttl.root_depth) if ssd else (1, 0)
    return Goal(space_of(manifest), options.constraints, options.prefer, groups, depth)


def _season(manifest: Manifest) -> Season | None:
    spec = manifest.cache.spec
    if spec.history is None:
        return None
    return Season(
        RecordedHistory(spec.history.url, manifest.keys),
        period_s=int(spec.scaling.window),
        season_s=spec.scaling.season,
        keep_s=spec.history.keep,
    )


def _within(trace: Trace | None, observed_s: float, window_s: float) -> tuple[Trace, int] | None:
    """A trace and the first request of its last ``window_s``; what came before warms the caches up."""
    if trace is None:
        return None
    first = int(trace.arrival_s.searchsorted(observed_s - window_s))
    return None if first == trace.requests else (trace, first)


def _demand(trace: Trace, first_request: int, span_s: float) -> Demand:
    return Demand(
        requests=trace.requests - first_request,
        blocks=int(trace.block_start[-1] - trace.block_start[first_request]),
        span_s=span_s,
        inferred=trace.observed_at == "node",
        curve=hit_curve(trace, first_request=first_request).thinned(CURVE_BREAKPOINTS),
        seen_prefix_hit_ratio=_seen_hit_ratio(trace, first_request),
    )


def _seen_hit_ratio(trace: Trace, first_request: int) -> float | None:
    blocks = int(trace.block_start[-1] - trace.block_start[first_request])
    if trace.hit_blocks is None or not blocks:
        return None
    return float(trace.hit_blocks[first_request:].sum()) / blocks
