"""The connector's counters in vLLM's own log lines and Prometheus metrics."""

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from kvtide_cachenode.engines.tally import COUNTERS


class KvtideStats(KVConnectorStats):
    """Sums over an interval, by the names in `COUNTERS`."""

    data: dict[str, float]

    def reset(self) -> None:
        """Forget."""
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Add another's sums to these."""
        for name, amount in other.data.items():
            self.data[name] = self.data.get(name, 0) + amount
        return self

    def reduce(self) -> dict[str, int | float]:
        """The sums, for the log."""
        return {name: round(amount, 4) for name, amount in self.data.items()}

    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not self.data


class KvtidePromMetrics(KVConnectorPromMetrics):
    """``vllm:kvtide_<counter>_total`` for each of `COUNTERS`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        counters = {
            name: self._counter_cls(
                name=f"vllm:kvtide_{name}", documentation=text, labelnames=self._labelnames
            )
            for name, text in COUNTERS.items()
        }
        self._of_engine = {
            engine: {name: counter.labels(*labels) for name, counter in counters.items()}
            for engine, labels in self.per_engine_labelvalues.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Add an interval's sums."""
        for name, amount in transfer_stats_data.items():
            self._of_engine[engine_idx][name].inc(amount)
