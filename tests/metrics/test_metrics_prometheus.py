"""Readings of a real Prometheus that scrapes engines of known behaviour."""

import time

import pytest

from kvtide_operator.observe.prometheus.query import PrometheusAccess
from kvtide_operator.observe.prometheus.source import PrometheusSource
from kvtide_operator.world.metrics import EngineMetrics, Missing, Stale, Value

WINDOW_S = 6.0
SCRAPE_S = 0.5
MODEL = 'model "7b"\\new'
ESCAPED = MODEL.replace("\\", "\\\\").replace('"', '\\"')


def lines(name: str, kind: str, *rows: tuple[str, float]) -> str:
    return f"# TYPE {name} {kind}\n" + "".join(f"{name}{{{labels}}} {value}\n" for labels, value in rows)


def histogram(name: str, labels: str, observed: dict[float, float], total: float) -> str:
    """Cumulative counts by upper bound, and the sum."""
    rows = "".join(f'{name}_bucket{{{labels},le="{bound:g}"}} {count}\n' for bound, count in observed.items())
    count = list(observed.values())[-1]
    infinite = f'{name}_bucket{{{labels},le="+Inf"}} {count}\n'
    ends = f"{name}_sum{{{labels}}} {total}\n{name}_count{{{labels}}} {count}\n"
    return f"# TYPE {name} histogram\n{rows}{infinite}{ends}"


def vllm(t: float, engine: str, *, requests_per_s: float = 10.0, model: str = ESCAPED) -> str:
    """10 requests a second: TTFT of 80 % up to 1 s, 99 % up to 2 s, all up to 4 s; 1.2 s on the mean.

    1000 tokens each, of which the GPUs have 300 and the connector 400 of the 700 asked of it; of the rest an
    engine computes 6000 in a second.
    """
    who = f'model_name="{model}",engine="{engine}"'
    n = requests_per_s * t
    return "".join(
        [
            lines("vllm:num_requests_running", "gauge", (who, 5)),
            lines("vllm:num_requests_waiting", "gauge", (who, 2)),
            lines("vllm:prompt_tokens_total", "counter", (who, 1000 * n)),
            lines("vllm:generation_tokens_total", "counter", (who, 200 * n)),
            lines("vllm:prefix_cache_queries_total", "counter", (who, 1000 * n)),
            lines("vllm:prefix_cache_hits_total", "counter", (who, 300 * n)),
            lines("vllm:external_prefix_cache_queries_total", "counter", (who, 700 * n)),
            lines("vllm:external_prefix_cache_hits_total", "counter", (who, 400 * n)),
            lines(
                "vllm:prompt_tokens_by_source_total",
                "counter",
                (f'{who},source="local_compute"', 300 * n),
                (f'{who},source="external_kv_transfer"', 400 * n),
            ),
            lines("vllm:prompt_tokens_cached_by_source_total", "counter", (f'{who},source="host"', 100 * n)),
            histogram("vllm:request_prefill_time_seconds", who, {1: n}, 0.05 * n),
            histogram("vllm:request_queue_time_seconds", who, {1: n}, 0.25 * n),
            histogram("vllm:inter_token_latency_seconds", who, {1: 199 * n}, 0.03 * 199 * n),
            histogram("vllm:time_to_first_token_seconds", who, {1: 0.8 * n, 2: 0.99 * n, 4: n}, 1.2 * n),
            lines(
                "vllm:kv_offload_tiering_read_bytes_total",
                "counter",
                (f'{who},tier="0:primary"', 9e9 * t),
                (f'{who},tier="1:fs"', 2e8 * t),
            ),
            lines(
                "vllm:kv_offload_tiering_read_time_total",
                "counter",
                (f'{who},tier="0:primary"', t),
                (f'{who},tier="1:fs"', 0.25 * t),
            ),
            lines(
                "vllm:cache_config_info",
                "gauge",
                (f'engine="{engine}",num_gpu_blocks="4000",block_size="16"', 1),
            ),
        ]
    )


def idle(_: float) -> str:
    return vllm(0.0, "0", model="idle")


def sglang(t: float) -> str:
    """4 requests a second of 1000 tokens; two ranks of one engine repeat what schedulers count."""
    n, rows = 4.0 * t, []
    for rank in ("0", "1"):
        who = f'model_name="sglang",tp_rank="{rank}",pp_rank="0"'
        rows += [
            lines("sglang:num_running_reqs", "gauge", (who, 3)),
            lines("sglang:num_queue_reqs", "gauge", (who, 1)),
            lines("sglang:kv_used_tokens", "gauge", (who, 1000)),
            lines("sglang:kv_evictable_tokens", "gauge", (who, 2000)),
            lines("sglang:kv_available_tokens", "gauge", (who, 3000)),
            histogram("sglang:queue_time_seconds", who, {1: n}, 0.5 * n),
            histogram("sglang:prefetch_bandwidth", who, {10: n}, 2.5 * n),
        ]
    who = 'model_name="sglang"'
    cached = {"device": 200, "host": 100, "storage": 350}
    sources = [(f'{who},cache_source="{name}"', share * n) for name, share in cached.items()]
    rows += [
        histogram("sglang:time_to_first_token_seconds", who, {1: n}, 0.5 * n),
        histogram("sglang:inter_token_latency_seconds", who, {1: 99 * n}, 0.02 * 99 * n),
        lines("sglang:prompt_tokens_total", "counter", (who, 1000 * n)),
        lines("sglang:generation_tokens_total", "counter", (who, 100 * n)),
        lines("sglang:cached_tokens_total", "counter", *sources),
    ]
    return "".join(rows)


def lmcache(t: float) -> str:
    """In an engine of two workers, each of which counts every look-up."""
    who = 'model_name="lmcache"'
    ranks = [f'{who},worker_id="{worker}"' for worker in (0, 1)]
    return "".join(
        [
            lines("vllm:num_requests_running", "gauge", (who, 1)),
            lines("lmcache:num_lookup_tokens_total", "counter", *[(rank, 800 * t) for rank in ranks]),
            lines("lmcache:num_lookup_hits_total", "counter", *[(rank, 200 * t) for rank in ranks]),
            lines("lmcache:num_remote_read_bytes_total", "counter", *[(rank, 1e8 * t) for rank in ranks]),
            lines("lmcache:remote_time_to_get_sum", "counter", *[(rank, 400 * t) for rank in ranks]),
            *[histogram("lmcache:retrieve_speed", rank, {1e5: t}, 50_000 * t) for rank in ranks],
        ]
    )


def lmcache_mp(t: float) -> str:
    """A server of its own: of 1000 tokens its first level has 500 and the second, ours, 125."""
    who = 'model_name="lmcache_mp"'
    return "".join(
        [
            lines("vllm:num_requests_running", "gauge", (who, 1)),
            lines("lmcache_mp_lookup_requested_tokens_total", "counter", (who, 1000 * t)),
            lines("lmcache_mp_lookup_hit_l1_tokens_total", "counter", (who, 500 * t)),
            lines("lmcache_mp_lookup_hit_l2_tokens_total", "counter", (who, 125 * t)),
            histogram("lmcache_mp_l2_load_throughput_GB_per_second", who, {10: t}, 0.5 * t),
        ]
    )


def strange(_: float) -> str:
    who = 'model_name="strange"'
    waiting = lines("vllm:num_requests_waiting", "gauge", (who, float("nan")))
    running = lines("vllm:num_requests_running", "gauge", (who, float("inf")))
    info = lines("vllm:cache_config_info", "gauge", ('num_gpu_blocks="None",block_size="16"', 1))
    return waiting + running + info


PAGES = {
    "vllm": lambda t: vllm(t, "0"),
    "vllm2": lambda t: vllm(t, "0") + vllm(t, "0", model="another"),
    "idle": idle,
    "dying": lambda t: vllm(t, "0", model="dying"),
    "sglang": sglang,
    "lmcache": lmcache,
    "lmcache_mp": lmcache_mp,
    "strange": strange,
}


@pytest.fixture(scope="module")
def prometheus(exporter, prometheus_of):
    """Prometheus with more than a window of samples."""
    exporter.pages.update(PAGES)
    made = prometheus_of(tuple(PAGES))
    enough = f"{WINDOW_S + 1:g}s]) >= {(WINDOW_S + 1) / SCRAPE_S - 1:g}"
    for job in PAGES:
        made.wait_until(f'count_over_time(up{{job="{job}"}}[{enough}')
    return made


@pytest.fixture
def source(prometheus, threads):
    def of(kind="VLLM", stale_after_s=60.0, url=None, **selector) -> PrometheusSource:
        return PrometheusSource(
            PrometheusAccess(url=url or prometheus.url),
            kind,
            selector or {"model_name": MODEL},
            stale_after_s=stale_after_s,
            executor=threads,
        )

    return of


async def now(source: PrometheusSource) -> EngineMetrics:
    return await source.read(time.time(), WINDOW_S)


def values(metrics: EngineMetrics) -> dict[str, float]:
    return {name: reading.value for name, reading in metrics.readings() if isinstance(reading, Value)}


async def test_vllm_two_engines_and_a_label_that_needs_escaping(prometheus, source):
    metrics = await now(source())
    assert metrics.warnings == ()
    assert values(metrics) == pytest.approx(
        {
            "instances": 2,
            "requests_per_s": 20,
            "prompt_tokens_per_s": 20_000,
            "generation_tokens_per_s": 4000,
            "running": 10,
            "waiting": 4,
            "ttft_mean_s": 1.2,
            "ttft_p50_s": 0.625,  # 0.5 of 0.8 on the way from 0 to 1 s
            "ttft_p99_s": 2.0,
            "queue_mean_s": 0.25,
            "inter_token_mean_s": 0.03,
            "prefill_tokens_per_s": 6000,
            "prefix_hit_ratio": 0.7,
            "device_hit_ratio": 0.3,
            "host_hit_ratio": 0.1,
            "external_hit_ratio": 4 / 7,
            "external_load_bytes_per_s": 8e8,
            "gpu_cache_tokens": 64_000,
        },
        rel=0.1,  # rates are of scrapes half a second apart
    )
    exact = {"instances": 2, "running": 10, "gpu_cache_tokens": 64_000}
    assert exact.items() <= values(metrics).items()
    assert isinstance(metrics.external_load_tokens_per_s, Missing)


async def test_idle_engines_have_zero_rates_and_no_ratios(prometheus, source):
    metrics = await now(source(model_name="idle"))
    assert metrics.requests_per_s == Value(metrics.at_s, 0.0)
    assert metrics.waiting == Value(metrics.at_s, 2.0)
    for reading in (metrics.ttft_p99_s, metrics.ttft_mean_s, metrics.prefix_hit_ratio):
        assert isinstance(reading, Missing)
        assert "nothing to count it from" in reading.why


async def test_engines_that_are_gone_leave_what_was_last_known(prometheus, source):
    dying = {"model_name": "dying"}
    before = await now(source(**dying))
    assert isinstance(before.requests_per_s, Value)
    del prometheus.exporter.pages["dying"]
    prometheus.wait_until('up{job="dying"} == 0')
    last_s = float(prometheus.ask('max(timestamp(up{job="dying"}))')[0]["value"][1])
    # Three seconds on, as far as the reading is concerned.
    now_s = last_s + 3.0
    gone = await source(stale_after_s=2.0, **dying).read(now_s, WINDOW_S)
    assert isinstance(gone.requests_per_s, Stale)
    assert now_s - gone.requests_per_s.since_s == pytest.approx(3.0, abs=1.0)
    assert gone.requests_per_s.last == pytest.approx(10.0, rel=0.1)
    assert gone.instances == Stale(gone.requests_per_s.since_s, 1.0)
    # Not yet so old that it says nothing, though no engine exposes a gauge any more.
    assert isinstance((await source(stale_after_s=60.0, **dying).read(now_s, WINDOW_S)).requests_per_s, Value)
    long_gone = await source(stale_after_s=2.0, **dying).read(now_s + 3600, WINDOW_S)
    assert {type(reading) for _, reading in long_gone.readings()} == {Missing}


async def test_a_wrong_selector_is_said_with_its_cure(prometheus, source):
    metrics = await source(model_name="nobody").read(time.time(), WINDOW_S)
    whys = {reading.why for _, reading in metrics.readings()}
    assert len(whys) == 1
    assert 'vllm:num_requests_running{model_name="nobody"}; check metrics.selector' in whys.pop()


async def test_sglang_counts_rank_0_once_and_bytes_of_all(prometheus, source):
    metrics = await now(source("SGLANG", model_name="sglang"))
    assert values(metrics) == pytest.approx(
        {
            "instances": 1,
            "requests_per_s": 4,
            "prompt_tokens_per_s": 4000,
            "generation_tokens_per_s": 400,
            "running": 3,
            "waiting": 1,
            "ttft_mean_s": 0.5,
            "ttft_p50_s": 0.5,
            "ttft_p99_s": 0.99,
            "inter_token_mean_s": 0.02,
            "queue_mean_s": 0.5,
            "prefix_hit_ratio": 0.65,
            "device_hit_ratio": 0.2,
            "host_hit_ratio": 0.1,
            "external_hit_ratio": 0.5,
            "external_load_bytes_per_s": 2.5e9,
            "gpu_cache_tokens": 6000,
        },
        rel=0.1,
    )


@pytest.mark.parametrize("job", ["lmcache", "lmcache_mp"])
async def test_lmcache_fills_what_the_engine_does_not_expose(prometheus, source, job):
    metrics = await now(source(model_name=job))
    expected = {"instances": 1, "running": 1, "external_hit_ratio": 0.25, "external_load_bytes_per_s": 5e8}
    if job == "lmcache":
        expected["external_load_tokens_per_s"] = 50_000
    assert values(metrics) == pytest.approx(expected, rel=0.1)


async def test_numbers_that_are_none_are_missing(prometheus, source):
    metrics = await now(source(model_name="strange"))
    assert values(metrics) == {"instances": 1.0}


async def test_the_past_can_be_read(prometheus, source):
    recent = await source().read(time.time() - 1.0, WINDOW_S - 1.0)
    assert recent.requests_per_s == Value(recent.at_s, pytest.approx(20, rel=0.1))
    before = await source().read(recent.at_s - 3600, WINDOW_S)
    assert {type(reading) for _, reading in before.readings()} == {Missing}
