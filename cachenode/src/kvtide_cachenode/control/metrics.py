"""Prometheus metrics of a node, read from its books when they are asked for. One table holds all names."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from kvtide_cachenode.contract.messages import TierStatus
from kvtide_cachenode.control.tiers import tier_status
from kvtide_cachenode.node import Node
from kvtide_cachenode.process.latency import Histogram


class _View(NamedTuple):
    """A node at one scrape: it itself, its tiers, and the SSD tier's books, empty without one."""

    node: Node
    tiers: Mapping[str, TierStatus]
    moved: Mapping[str, int]
    ssd: Mapping[str, Any]
    budget_bytes: float | None


Value = float | Mapping[str, float]
"""A number, or one for each value of the row's label."""


class Row(NamedTuple):
    """One metric; ``label`` is empty where it has a single value."""

    name: str
    kind: Literal["gauge", "counter"]
    label: str
    help: str
    value: Callable[[_View], Value]


def _cluster(field: str) -> Callable[[_View], Value]:
    return lambda view: float(getattr(view.node.cluster.counters, field))


def _slots(field: str) -> Callable[[_View], Value]:
    return lambda view: float(getattr(view.node.cluster.moved, field))


def _node(field: str) -> Callable[[_View], Value]:
    return lambda view: float(getattr(view.node, field))


def _clients(field: str) -> Callable[[_View], Value]:
    return lambda view: float(getattr(view.node.clients, field))


def _watched(field: str) -> Callable[[_View], Value]:
    return lambda view: {watched.name: getattr(watched, field) for watched in view.node.watched}


def _internal_errors(view: _View) -> Value:
    return view.node.failures.total


def _of_tiers(field: str) -> Callable[[_View], Value]:
    return lambda view: {tier: getattr(status, field) for tier, status in view.tiers.items()}


def _counter(field: str) -> Callable[[_View], Value]:
    return lambda view: float(getattr(view.node.store.counters, field))


def _hits(view: _View, all_field: str, below: str) -> Value:
    """Reads by the tier that answered: what was not promoted or streamed from the SSD came from DRAM."""
    total = getattr(view.node.store.counters, all_field)
    if not view.ssd:
        return {"dram": total}
    bytes_suffix = "_bytes" if below == "bytes" else ""
    ssd = view.moved[f"promoted{bytes_suffix}"] + view.moved[f"streamed{bytes_suffix}"]
    return {"dram": max(total - ssd, 0), "ssd": ssd}


def _evictions(view: _View) -> Value:
    ssd = {"ssd_cap": view.ssd["evicted"], "ssd_ttl": view.ssd["expired"]} if view.ssd else {}
    return {"dram_cap": view.node.store.counters.evictions} | ssd


def _moved_bytes(view: _View) -> Value:
    if not view.ssd:
        return {}
    return {
        "demoted": view.moved["demoted_bytes"],
        "promoted": view.moved["promoted_bytes"],
        "streamed": view.moved["streamed_bytes"],
        "cleaned": view.ssd["moved_bytes"],
    }


def _not_demoted(view: _View) -> Value:
    reasons = ("dropped", "refused", "not_admitted", "known")
    return {reason: view.moved[f"demotions_{reason}"] for reason in reasons} if view.ssd else {}


def _ssd(*fields: str) -> Callable[[_View], Value]:
    return lambda view: {field: view.ssd[field] for field in fields} if view.ssd else {}


def _ssd_value(field: str) -> Callable[[_View], Value]:
    return lambda view: view.ssd.get(field, {})


def _budget(view: _View) -> Value:
    return {} if view.budget_bytes is None else view.budget_bytes


PREFIX: Final = "kvtide_node_"
COMMAND_SECONDS: Final = "command_seconds"
COMMAND_SECONDS_HELP: Final = (
    "From a command's bytes to its reply, queued; way: at_once or later (SSD, peers)."
)
TABLE: Final = (
    Row("capacity_bytes", "gauge", "tier", "What the tier may hold.", _of_tiers("capacity_bytes")),
    Row("used_bytes", "gauge", "tier", "What it holds, keys and metadata included.", _of_tiers("used_bytes")),
    Row("resident_bytes", "gauge", "tier", "Physical memory, or disk blocks.", _of_tiers("resident_bytes")),
    Row("wasted_bytes", "gauge", "tier", "Rounding, or dead records.", _of_tiers("wasted_bytes")),
    Row("max_bytes", "gauge", "tier", "The largest capacity possible now.", _of_tiers("max_bytes")),
    Row("entries", "gauge", "tier", "Entries in the tier.", _of_tiers("entries")),
    Row("hits", "counter", "tier", "Keys read and found.", lambda v: _hits(v, "get_hits", "")),
    Row("read_bytes", "counter", "tier", "Bytes of values read.", lambda v: _hits(v, "read_bytes", "bytes")),
    Row("misses", "counter", "", "Keys read and not found.", _counter("get_misses")),
    Row("exists_hits", "counter", "", "Keys asked for and there.", _counter("exists_hits")),
    Row("exists_misses", "counter", "", "Keys asked for, not there.", _counter("exists_misses")),
    Row("sets", "counter", "", "Values stored.", _counter("sets")),
    Row("written_bytes", "counter", "", "Bytes of values stored.", _counter("written_bytes")),
    Row("deletes", "counter", "", "Keys deleted by clients.", _counter("deletes")),
    Row("rejected", "counter", "", "Values that did not fit.", _counter("rejected")),
    Row("evictions", "counter", "reason", "Entries that left a tier.", _evictions),
    Row("evicted_bytes", "counter", "", "Bytes evicted from DRAM.", _counter("evicted_bytes")),
    Row("moved_bytes", "counter", "way", "Bytes moved between and within tiers.", _moved_bytes),
    Row("not_demoted", "counter", "reason", "Evicted entries not written to the SSD.", _not_demoted),
    Row("ssd_written_bytes", "counter", "", "Bytes written to the SSD.", _ssd_value("written_bytes")),
    Row("ssd_errors", "counter", "kind", "Failed I/O of the SSD.", _ssd("read_errors", "write_errors")),
    Row("ssd_refused", "counter", "reason", "Writes the SSD refused.", _ssd_value("refused")),
    Row("ssd_missed", "counter", "reason", "Reads the SSD failed.", _ssd_value("missed")),
    Row("ssd_write_budget_bytes", "gauge", "", "Bytes that may be written now.", _budget),
    Row("connections", "gauge", "", "Clients connected.", lambda v: len(v.node.sessions)),
    Row("connections_accepted", "counter", "", "Connections.", lambda v: v.node.connections_total),
    Row("connections_refused", "counter", "", "Over the limit.", lambda v: v.node.connections_refused),
    Row("connections_evicted", "counter", "", "Strangers that made way.", _node("connections_evicted")),
    Row("accept_pauses", "counter", "", "No file descriptor was free.", _node("accept_pauses")),
    Row("connections_cut_off", "counter", "", "Clients that held too much.", _clients("cut_off")),
    Row("clients_bytes", "gauge", "", "Unparsed and unsent.", _clients("total_bytes")),
    Row("connections_stalled", "counter", "", "Clients cut off.", lambda v: v.node.stalled_total),
    Row("auth_failures", "counter", "", "Wrong passwords.", lambda v: v.node.auth_failures),
    Row("internal_errors", "counter", "where", "Exceptions nobody expected.", _internal_errors),
    Row("reloads", "counter", "files", "Changed files read anew.", _watched("reloads")),
    Row("reload_failures", "counter", "files", "Changed files that are no good.", _watched("failures")),
    Row("commands", "counter", "", "Commands executed.", lambda v: v.node.commands_total),
    Row("forwarded", "counter", "", "Commands run by a peer.", lambda v: v.node.cluster.counters.forwarded),
    Row("redirected", "counter", "", "MOVED and ASK.", lambda v: v.node.cluster.counters.redirected),
    Row("forwarded_bytes", "counter", "", "Bytes of their replies.", _cluster("forwarded_bytes")),
    Row("slots_sent_bytes", "counter", "", "Bytes sent away with slots.", _slots("sent_bytes")),
    Row("slots_left_bytes", "counter", "", "Bytes left behind by slots.", _slots("left_bytes")),
    Row("forward_failures", "counter", "", "Peers lost.", lambda v: v.node.cluster.counters.forward_failures),
    Row("trace_lines", "gauge", "", "Trace lines that can be read.", lambda v: len(v.node.trace)),
    Row("trace_dropped_lines", "counter", "", "Trace lines that are gone.", lambda v: v.node.trace.dropped),
    Row("uptime_seconds", "gauge", "", "Time since the process began.", lambda v: v.node.uptime_s()),
    Row("ready", "gauge", "", "1 while the node serves clients.", lambda v: float(v.node.ready)),
)  # fmt: skip


class _NodeCollector(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterable[Metric]:
        view = _view(self._node)
        for row in TABLE:
            family = GaugeMetricFamily if row.kind == "gauge" else CounterMetricFamily
            metric = family(PREFIX + row.name, row.help, labels=[row.label] if row.label else [])
            value = row.value(view)
            values = value if isinstance(value, Mapping) else {"": value}
            for label, number in values.items():
                metric.add_metric([label] if row.label else [], number)
            yield metric
        seconds = HistogramMetricFamily(PREFIX + COMMAND_SECONDS, COMMAND_SECONDS_HELP, labels=["way"])
        for way, histogram in _ways(self._node).items():
            seconds.add_metric([way], histogram.cumulative(), histogram.sum_s)
        yield seconds


def _view(node: Node) -> _View:
    tiers, store = tier_status(node.store), node.store
    log = store.lower.get("ssd")
    if log is None:
        return _View(node, tiers, {}, {}, None)
    stats = log.stats()
    return _View(node, tiers, store.counted(), stats.counters, stats.budget_bytes)


def _ways(node: Node) -> dict[str, Histogram]:
    return {"at_once": node.dram_latency, "later": node.later_latency}


class NodeMetrics:
    """The text of /metrics."""

    def __init__(self, node: Node) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_NodeCollector(node))

    def text(self) -> bytes:
        """All metrics in the Prometheus text format, counters with the suffix ``_total``."""
        return generate_latest(self._registry)
