"""The metrics of passes and rounds."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from kvtide_operator.loop import Round
from kvtide_operator.world.kinds import CacheKey


class ReconcileMetrics:
    """How long steps take, how good predictions are, what the tiers cost."""

    def __init__(self, registry: CollectorRegistry) -> None:
        buckets = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0)
        self.failures = Counter(
            "kvtide_operator_failures", "Passes, rounds and steps that failed.",
            ("namespace", "cache", "of", "reason"), registry=registry,
        )  # fmt: skip
        self.passes = Histogram(
            "kvtide_operator_pass_duration_seconds", "How long a pass over a cache took.",
            ("ending",), registry=registry, buckets=buckets,
        )  # fmt: skip
        self.steps = Histogram(
            "kvtide_operator_step_duration_seconds", "How long a step of a round took.",
            ("step",), registry=registry, buckets=buckets,
        )  # fmt: skip
        labels = ("namespace", "cache")
        self.cost = Gauge(
            "kvtide_operator_cost_per_hour",
            "What the tiers cost, in their currency.",
            labels,
            registry=registry,
        )
        self.savings = Gauge(
            "kvtide_operator_planned_savings_ratio", "Share of that which the newest plan saves.",
            labels, registry=registry,
        )  # fmt: skip
        self.error = Gauge(
            "kvtide_operator_prediction_error_ratio", "Measured less simulated hit ratio, absolute.",
            labels, registry=registry,
        )  # fmt: skip
        self.planned = Gauge(
            "kvtide_operator_last_plan_timestamp_seconds", "When a cache was last planned.",
            labels, registry=registry,
        )  # fmt: skip

    def take(self, key: CacheKey, done: Round, now_s: float) -> None:
        """Count a round."""
        for step, took_s in done.steps_s.items():
            self.steps.labels(step).observe(took_s)
        if done.plan is not None:
            before = done.plan.current.outcome.storage_cost_per_hour
            after = done.plan.chosen.outcome.storage_cost_per_hour
            self.savings.labels(*key).set((before - after) / before if before else 0.0)
            self.planned.labels(*key).set(now_s)
        if done.noise is not None and done.noise.hit_ratio is not None:
            self.error.labels(*key).set(done.noise.hit_ratio)

    def bill(self, key: CacheKey, cost_per_hour: float | None) -> None:
        """Say what a cache costs, as its status does; nothing where that is not known."""
        if cost_per_hour is not None:
            self.cost.labels(*key).set(cost_per_hour)
        elif tuple(key) in self.cost._metrics:
            self.cost.remove(*key)

    def forget(self, key: CacheKey) -> None:
        """The cache is gone."""
        for gauge in (self.cost, self.savings, self.error, self.planned):
            if tuple(key) in gauge._metrics:  # it has no public way to ask
                gauge.remove(*key)
        for labels in [labels for labels in self.failures._metrics if labels[:2] == tuple(key)]:
            self.failures.remove(*labels)
