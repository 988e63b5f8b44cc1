"""Prometheus metrics of a node, read from its books when they are asked for. One table holds all names."""

from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvtide_cachenode.node import Node


class _Row(NamedTuple):
    name: str
    kind: Literal["gauge", "counter"]
    help: str
    value: Callable[[Node], float]


PREFIX: Final = "kvtide_node_"
TABLE: Final = (
    _Row("capacity_bytes", "gauge", "What the DRAM tier may hold.", lambda n: n.store.capacity_bytes),
    _Row("used_bytes", "gauge", "What it holds, keys and metadata included.", lambda n: n.store.used_bytes),
    _Row("resident_bytes", "gauge", "Physical memory of the tier.", lambda n: n.store.resident_bytes()),
    _Row("wasted_bytes", "gauge", "Rounding of extents.", lambda n: n.store.wasted_bytes),
    _Row("entries", "gauge", "Entries in the DRAM tier.", lambda n: len(n.store)),
    _Row("get_hits", "counter", "Keys read and found.", lambda n: n.store.counters.get_hits),
    _Row("get_misses", "counter", "Keys read and not found.", lambda n: n.store.counters.get_misses),
    _Row("exists_hits", "counter", "Keys asked for and there.", lambda n: n.store.counters.exists_hits),
    _Row("exists_misses", "counter", "Keys asked for, not there.", lambda n: n.store.counters.exists_misses),
    _Row("sets", "counter", "Values stored.", lambda n: n.store.counters.sets),
    _Row("deletes", "counter", "Keys deleted by clients.", lambda n: n.store.counters.deletes),
    _Row("evictions", "counter", "Entries evicted.", lambda n: n.store.counters.evictions),
    _Row("evicted_bytes", "counter", "Bytes evicted.", lambda n: n.store.counters.evicted_bytes),
    _Row("rejected", "counter", "Values that did not fit.", lambda n: n.store.counters.rejected),
    _Row("read_bytes", "counter", "Bytes of values read.", lambda n: n.store.counters.read_bytes),
    _Row("written_bytes", "counter", "Bytes of values stored.", lambda n: n.store.counters.written_bytes),
    _Row("connections", "gauge", "Clients connected.", lambda n: len(n.sessions)),
    _Row("connections_accepted", "counter", "Connections accepted.", lambda n: n.connections_total),
    _Row("connections_refused", "counter", "Connections over the limit.", lambda n: n.connections_refused),
    _Row("commands", "counter", "Commands executed.", lambda n: n.commands_total),
    _Row("trace_lines", "gauge", "Trace lines that can be read.", lambda n: len(n.trace)),
    _Row("trace_dropped_lines", "counter", "Trace lines that made way.", lambda n: n.trace.dropped),
    _Row("uptime_seconds", "gauge", "Time since the process began.", lambda n: n.uptime_s()),
    _Row("ready", "gauge", "1 while the node serves clients.", lambda n: float(n.ready)),
)  # fmt: skip


class _NodeCollector(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterable[Metric]:
        for row in TABLE:
            family = GaugeMetricFamily if row.kind == "gauge" else CounterMetricFamily
            yield family(PREFIX + row.name, row.help, value=row.value(self._node))


class NodeMetrics:
    """The text of /metrics."""

    def __init__(self, node: Node) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_NodeCollector(node))

    def text(self) -> bytes:
        """All metrics in the Prometheus text format, counters with the suffix ``_total``."""
        return generate_latest(self._registry)
