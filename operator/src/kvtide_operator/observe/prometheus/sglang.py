"""SGLang's metrics, by the names of its version 0.5.

Where schedulers of all tensor- and pipeline-parallel ranks report, each repeats the same counts of tokens and
requests: they are read from rank 0, or from series without a rank.
"""

from kvtide_operator.observe.prometheus.engine import EngineQueries, Expressions
from kvtide_operator.observe.prometheus.promql import Series

HEARTBEAT = "sglang:num_running_reqs"
_RANK_0 = ('tp_rank=~"0?"', 'pp_rank=~"0?"')
_TTFT = "sglang:time_to_first_token_seconds"
_CACHED = "sglang:cached_tokens_total"
_PROMPT = "sglang:prompt_tokens_total"


def _expressions(series: Series) -> Expressions:
    def rate(metric: str, *more: str) -> str:
        return series.rate(metric, *more, *_RANK_0)

    prompt = rate(_PROMPT)
    device, host = rate(_CACHED, 'cache_source="device"'), rate(_CACHED, 'cache_source="host"')
    storage = rate(_CACHED, 'cache_source="storage"')
    return {
        "instances": f"count({series.pick(HEARTBEAT, *_RANK_0)})",
        "requests_per_s": rate(f"{_TTFT}_count"),
        "prompt_tokens_per_s": prompt,
        "generation_tokens_per_s": rate("sglang:generation_tokens_total"),
        "running": series.total(HEARTBEAT, *_RANK_0),
        "waiting": series.total("sglang:num_queue_reqs", *_RANK_0),
        "ttft_mean_s": series.mean(_TTFT, *_RANK_0),
        "ttft_p50_s": series.quantile(0.5, _TTFT, *_RANK_0),
        "ttft_p99_s": series.quantile(0.99, _TTFT, *_RANK_0),
        "queue_mean_s": series.mean("sglang:queue_time_seconds", *_RANK_0),
        "inter_token_mean_s": series.mean("sglang:inter_token_latency_seconds", *_RANK_0),
        "prefix_hit_ratio": f"{rate(_CACHED)} / {prompt}",
        "device_hit_ratio": f"{device} / {prompt}",
        "host_hit_ratio": f"{host} / {prompt}",
        "external_hit_ratio": f"{storage} / ({prompt} - {device} - {host})",
        # Gigabytes a second, a histogram of transfers.
        "external_load_bytes_per_s": f"1e9 * {series.mean('sglang:prefetch_bandwidth')}",
        "gpu_cache_tokens": " + ".join(
            f"avg({series.pick(f'sglang:kv_{state}_tokens', *_RANK_0)})"
            for state in ("used", "evictable", "available")
        ),
    }


SGLANG = EngineQueries(HEARTBEAT, _expressions)
