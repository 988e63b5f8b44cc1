"""vLLM's metrics, by the names of its version 0.33; its labels are ``model_name`` and ``engine``.

Left out on purpose: ``vllm:kv_offload_cpu_cache_usage_perc`` is the share pinned by transfers, not the
fullness, and ``vllm:kv_cache_usage_perc`` is the share of running requests, not of what could be reused.
"""

from kvtide_operator.observe.prometheus.engine import EngineQueries, Expressions
from kvtide_operator.observe.prometheus.promql import Series

HEARTBEAT = "vllm:num_requests_running"
_TTFT = "vllm:time_to_first_token_seconds"
_TIERING_READ = "vllm:kv_offload_tiering_read"


def _expressions(series: Series) -> Expressions:
    rate, ratio = series.rate, series.ratio
    queries = rate("vllm:prefix_cache_queries_total")
    hits = rate("vllm:prefix_cache_hits_total")
    external_queries = rate("vllm:external_prefix_cache_queries_total")
    external_hits = rate("vllm:external_prefix_cache_hits_total")
    host_hits = rate("vllm:prompt_tokens_cached_by_source_total", 'source="host"')
    computed = rate("vllm:prompt_tokens_by_source_total", 'source="local_compute"')
    # The sum of a histogram, which versions without the counter by source have.
    computed_before = rate("vllm:request_prefill_kv_computed_tokens_sum")
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
        "inter_token_mean_s": series.mean("vllm:inter_token_latency_seconds"),
        "prefill_tokens_per_s": (
            f"({computed} or {computed_before}) / {rate('vllm:request_prefill_time_seconds_sum')}"
        ),
        # A connector is asked for what the GPUs did not have: all queries are among the GPUs'.
        "prefix_hit_ratio": f"({hits} + {external_hits}) / {queries}",
        "device_hit_ratio": f"{hits} / {queries}",
        "host_hit_ratio": f"{host_hits} / {queries}",
        "external_hit_ratio": f"{external_hits} / {external_queries}",
        "external_load_bytes_per_s": ratio(
            f"{_TIERING_READ}_bytes_total", f"{_TIERING_READ}_time_total", 'tier!="0:primary"'
        ),
    }


def _cache_blocks(series: Series) -> str:
    # This metric has the labels of the configuration, and not the model's.
    ours = f"vllm:cache_config_info and on (job, instance) {series.pick(HEARTBEAT)}"
    return f"count by (num_gpu_blocks, block_size) ({ours})"


VLLM = EngineQueries(HEARTBEAT, _expressions, _cache_blocks)
