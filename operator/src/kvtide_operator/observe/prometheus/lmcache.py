"""LMCache's metrics, by the names of its version 0.5: within an engine, and as a server of its own.

It is a layer below an engine and knows nothing of requests: it fills what the engine itself does not expose.
Its gauges of hit rates are since its last log line and say nothing of a window; the counters do.
"""

from kvtide_operator.observe.prometheus.engine import Expressions
from kvtide_operator.observe.prometheus.promql import Series


def in_process(series: Series) -> Expressions:
    """Readings of LMCache within an engine, ``lmcache:*``; every worker repeats them for its shard."""
    read_bytes = series.rate("lmcache:num_remote_read_bytes_total")
    # Milliseconds of every worker; bytes of all of them together arrive in the time of one.
    read_ms = f"avg(rate({series.pick('lmcache:remote_time_to_get_sum')}[{series.window_s}s]))"
    return {
        "external_hit_ratio": series.ratio(
            "lmcache:num_lookup_hits_total", "lmcache:num_lookup_tokens_total"
        ),
        "external_load_bytes_per_s": f"{read_bytes} / ({read_ms} / 1000)",
        # Tokens a second, a histogram of retrievals.
        "external_load_tokens_per_s": series.mean("lmcache:retrieve_speed"),
    }


def server(series: Series) -> Expressions:
    """Readings of LMCache as a server, ``lmcache_mp_*``: its second level is ours."""
    asked = series.rate("lmcache_mp_lookup_requested_tokens_total")
    first = series.rate("lmcache_mp_lookup_hit_l1_tokens_total")
    second = series.rate("lmcache_mp_lookup_hit_l2_tokens_total")
    return {
        "external_hit_ratio": f"{second} / ({asked} - {first})",
        # Gigabytes a second, a histogram of loads.
        "external_load_bytes_per_s": f"1e9 * {series.mean('lmcache_mp_l2_load_throughput_GB_per_second')}",
    }
