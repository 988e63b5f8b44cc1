"""vLLM's metrics, by the names of its version 0.33 (`/metrics`; labels ``model_name`` and ``engine``).

Left out on purpose: ``vllm:kv_offload_cpu_cache_usage_perc`` is the share pinned by transfers, not the fullness, and
``vllm:kv_cache_usage_perc`` is the share of running requests, not what could be reused.
"""

from kvtide_operator.observe.prometheus.engine import EngineQueries, Expressions
from kvtide_operator.observe.prometheus.promql import Series

HEARTBEAT = "vllm:num_requests_running"
_TTFT = "vllm:time_to_first_token_seconds"
_PREFILL_S = "vllm:request_prefill_time_seconds_sum"


def expressions(series: Series) -> Expressions:
    """The readings that vLLM exposes."""
    rate, ratio = series.rate, series.ratio
    hits = rate("vllm:prefix_cache_hits_total")
    external_hits = rate("vllm:external_prefix_cache_hits_total")
    queries = rate("vllm:prefix_cache_queries_total")
    computed = rate("vllm:prompt_tokens_by_source_total", 'source="local_compute"')
    # Sums of a histogram; older versions have it and not the counter by source.
    computed_before = rate("vllm:request_prefill_kv_computed_tokens_sum")
    # The info metric has the labels of the configuration and not the model's.
    config = f"vllm:cache_config_info and on (job, instance) {series.pick(HEARTBEAT)}"
    return {
        "instances": f"count({series.pick(HEARTBEAT)})",
        "requests_per_s": rate(f"{_TTFT}_count"),
        "prompt_tokens_per_s": rate("vllm:prompt_tokens_total"),
        "generation_tokens_per_s": rate("vllm:generation_tokens_total"),
        "running": series.total(HEARTBEAT),
        "waiting": series.total("vllm:num_requests_waiting"),
        "ttft_mean_s": series.mean(_TTFT),
        "ttft_p50_s": series.quantile(0.5, _TTFT),
        "ttft_p99_s": series.quantile(0.99, _TTFT),
        "queue_mean_s": series.mean("vllm:request_queue_time_seconds"),
        "prefill_tokens_per_s": f"({computed} or {computed_before}) / {rate(_PREFILL_S)}",
        # The connector is asked for what the GPU missed, so that both counts of hits share the queries.
        "prefix_hit_ratio": f"({hits} + {external_hits}) / {queries}",
        "device_hit_ratio": f"{hits} / {queries}",
        "host_hit_ratio": f"{rate('vllm:prompt_tokens_cached_by_source_total', _HOST)} / {queries}",
        "external_hit_ratio": ratio(
            "vllm:external_prefix_cache_hits_total", "vllm:external_prefix_cache_queries_total"
        ),
        "external_load_bytes_per_s": ratio(
            "vllm:kv_offload_load_bytes_total", "vllm:kv_offload_load_time_total"
        ),
        "disk_load_bytes_per_s": ratio(
            "vllm:kv_offload_tiering_read_bytes_total",
            "vllm:kv_offload_tiering_read_time_total",
            'tier!="0:primary"',
        ),
        "gpu_cache_tokens": f"avg({_tokens_of(config)})",
    }


_HOST = 'source="host"'


def _tokens_of(config: str) -> str:
    """Blocks × tokens of a block, both of which are labels: a value is counted once for each digit's place.

    PromQL reads no number out of a label, but `count_values` writes one into it: not the way here. So the source reads
    this metric's labels itself; see `source.INFO`.
    """
    return config


VLLM = EngineQueries(HEARTBEAT, expressions)
