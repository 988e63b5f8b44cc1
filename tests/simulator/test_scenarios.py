"""What is refused, what is degenerate, and what the options of a scenario change."""

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.engine.profiles import find_profile
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.simulate.evaluator import Evaluator
from kvtide_operator.simulate.media import Bandwidth, MediumSpeed
from kvtide_operator.simulate.prices import VolumeSizes
from kvtide_operator.simulate.requests import answer_of, prompt_of, requests_of


def test_an_empty_trace(make_trace, make_scenario):
    with pytest.raises(SimulationError, match="no requests"):
        make_scenario(make_trace([]))


def test_times_that_go_backwards(make_trace, make_scenario):
    with pytest.raises(SimulationError, match="backwards"):
        make_scenario(make_trace([(1.0, 100, 1, [0]), (0.0, 100, 1, [0])]))


def test_a_sampled_trace(make_trace, make_scenario):
    trace = make_trace([(0.0, 100, 1, [0])])
    with pytest.raises(SimulationError, match="every request"):
        make_scenario(replace(trace, weight=np.array([10.0])))


def test_a_block_larger_than_a_tier(make_trace, make_scenario):
    trace = make_trace([(0.0, 100, 1, [0])])
    with pytest.raises(SimulationError, match=r"1000 bytes does not fit DRAM of 999 bytes"):
        Evaluator(make_scenario(trace)).evaluate(Configuration(999))
    with pytest.raises(SimulationError, match=r"1000 bytes does not fit an SSD of 500 bytes"):
        Evaluator(make_scenario(trace, ssd_max_bytes=500)).evaluate(Configuration(0, 1.0, "fast"))


def test_no_request_that_any_engine_could_hold(make_trace, make_scenario, make_profile):
    with pytest.raises(SimulationError, match="no request fits"):
        Evaluator(make_scenario(make_trace([(0.0, 100, 1, [0])]), profile=make_profile(kv_tokens=50)))


def test_a_class_that_is_not_defined(make_trace, make_scenario):
    with pytest.raises(SimulationError, match=r"'slow' is not defined.*fast"):
        Evaluator(make_scenario(make_trace([(0.0, 100, 1, [0])]))).evaluate(Configuration(0, 1.0, "slow"))


def test_as_many_ttls_as_groups(make_trace, make_scenario):
    trace = make_trace([(0.0, 200, 1, [0, 1])])
    evaluator = Evaluator(make_scenario(trace, block_group=np.array([0, 1], dtype=np.int8)))
    with pytest.raises(SimulationError, match="3 TTLs for 2 groups"):
        evaluator.evaluate(Configuration(0, (1.0, 2.0, 3.0), "fast"))
    assert evaluator.evaluate(Configuration(0, 1.0, "fast")).ssd_written_bytes == 2000
    assert evaluator.evaluate(Configuration(0, (0.0, 1.0), "fast")).ssd_written_bytes == 1000


@pytest.mark.parametrize(
    "bad", [{"dram_bytes": -1}, {"ttl_s": -1.0}, {"ttl_s": float("nan")}, {"volumes": 0}]
)
def test_configurations_that_cannot_be(bad):
    with pytest.raises(SimulationError):
        Configuration(**({"dram_bytes": 0} | bad))


@pytest.mark.parametrize("configuration", [Configuration(0), Configuration(5000, 9.0, "fast")])
def test_one_request_of_no_tokens_and_no_blocks(make_trace, make_scenario, configuration):
    # It still takes a step of one token.
    result = Evaluator(make_scenario(make_trace([(0.0, 0, 0, [])]))).coupled(configuration)
    assert result.ttft_mean_s == pytest.approx(0.001)
    assert result.prefix_hit_ratio == 0.0
    assert result.stable


def test_vllm_caches_full_blocks_hits_all_tokens_but_one_and_keeps_answers(make_trace):
    # 250 tokens are two full blocks; the answer fills block 7 and, with 170 tokens, not the one after it.
    trace = make_trace([(0.0, 250, 170, [5, 6, 1]), (1.0, 500, 1, [5, 6, 7, 8, 9]), (2.0, 200, 900, [3, 4])])
    requests = requests_of(trace, "vllm")
    name = trace.block_ids
    assert list(name[prompt_of(requests, 0)]) == [5, 6]
    assert list(name[answer_of(requests, 0)]) == [7, 8]
    assert list(requests.row.hittable) == [2, 4, 1]
    assert list(name[answer_of(requests, 2)]) == []  # nothing in the trace goes on from there


def test_vllm_does_not_guess_between_two_answers(make_trace):
    trace = make_trace(
        [(0.0, 100, 150, [5]), (1.0, 200, 1, [5, 6]), (2.0, 200, 1, [5, 7]), (3.0, 100, 100, [5])]
    )
    assert len(answer_of(requests_of(trace, "vllm"), 0)) == 0


def test_an_answer_is_hit_by_the_next_turn(make_trace, make_scenario):
    trace = make_trace([(0.0, 200, 100, [0, 1]), (5.0, 400, 1, [0, 1, 2, 3])])
    result = Evaluator(make_scenario(trace, semantics="vllm")).coupled(Configuration(10_000))
    assert result.dram_hit_blocks == 3


@pytest.mark.parametrize("mode", ["evaluate", "coupled"])
def test_requests_follow_their_prefix_but_not_all_of_them(make_trace, make_scenario, mode):
    families = [0, 1] * 10
    trace = make_trace([(float(i), 300, 1, [10 * f, 10 * f + 1, 10 * f + 2]) for i, f in enumerate(families)])
    one_sided = make_trace([(float(i), 300, 1, [0, 1, 2]) for i in range(20)])
    options = {"gpu_cache_bytes": 3000, "routing": "prefixAffine"}
    affine = getattr(Evaluator(make_scenario(trace, **options)), mode)(Configuration(0, instances=2))
    assert affine.device_hit_blocks == 18 * 3
    turns = make_scenario(trace, gpu_cache_bytes=3000, routing="roundRobin")
    assert getattr(Evaluator(turns), mode)(Configuration(0, instances=2)).device_hit_blocks == 18 * 3
    shifted = getattr(Evaluator(make_scenario(one_sided, **options)), mode)(Configuration(0, instances=2))
    assert shifted.device_hit_blocks == 18 * 3  # both engines had to compute it once


@pytest.mark.parametrize("mode", ["evaluate", "coupled"])
@pytest.mark.parametrize(("index_bytes", "hits"), [(0, (1, 0)), (1000, (0, 1))])
def test_the_index_of_the_ssd_takes_room_in_dram(make_trace, make_scenario, mode, index_bytes, hits):
    """Of 4 blocks the index may take 1, which a single copy fills: from then on DRAM holds 3."""
    trace = make_trace([(float(i), 100, 1, [block]) for i, block in enumerate([1, 2, 3, 4, 5, 6, 3])])
    evaluator = Evaluator(make_scenario(trace, ssd_index_bytes=index_bytes))
    result = getattr(evaluator, mode)(Configuration(4000, 1e6, "fast"))
    assert (result.dram_hit_blocks, result.ssd_hit_blocks) == hits


def test_two_stages_charge_the_index_as_the_coupled_run_does(conversation, make_scenario, make_profile):
    """An index that takes a tenth of DRAM: fewer hits there, and two stages see as many fewer."""
    found = []
    for index_bytes in (0, 16):
        scenario = make_scenario(
            conversation,
            kv_bytes_per_token=1,
            profile=make_profile(1e-6, kv_tokens=10**6),
            ssd_index_bytes=index_bytes,
        )
        evaluator, configuration = Evaluator(scenario), Configuration(4000 * 512, 120.0, "fast")
        two_stage, coupled = evaluator.evaluate(configuration), evaluator.coupled(configuration)
        assert two_stage.dram_hit_blocks == pytest.approx(
            coupled.dram_hit_blocks, abs=0.003 * coupled.blocks_requested
        )
        found.append(coupled.dram_hit_blocks)
    assert found[1] < 0.97 * found[0]


@pytest.mark.parametrize(("later_s", "hits"), [(0.2, 0), (0.4, 3)])
@pytest.mark.parametrize("mode", ["evaluate", "coupled"])
def test_a_prompt_is_found_once_it_is_computed(make_trace, make_scenario, mode, later_s, hits):
    """300 tokens take 0.3 s; the second request is served by the other engine."""
    trace = make_trace([(at_s, 300, 1, [0, 1, 2]) for at_s in (0.0, later_s)])
    result = getattr(Evaluator(make_scenario(trace)), mode)(Configuration(3000, instances=2))
    assert result.dram_hit_blocks == hits


@pytest.mark.parametrize(
    ("admission", "written"),
    # Without DRAM every request demotes its block: block 1 three times within its TTL, block 2 once.
    [("always", 2), ("secondTouch", 1), ("reusedOnly", 0)],
)
def test_write_admission(make_trace, make_scenario, admission, written):
    trace = make_trace([(float(i), 100, 1, [block]) for i, block in enumerate([1, 2, 1, 1])])
    result = Evaluator(make_scenario(trace, ssd_writes=admission)).evaluate(Configuration(0, 99.0, "fast"))
    assert result.ssd_written_bytes == written * 1000


def test_only_what_dram_hit_counts_as_reused(make_trace, make_scenario):
    trace = make_trace([(float(i), 100, 1, [block]) for i, block in enumerate([1, 1, 2, 3, 1])])
    scenario = make_scenario(trace, ssd_writes="reusedOnly")
    result = Evaluator(scenario).evaluate(Configuration(1000, 99.0, "fast"))
    assert (result.ssd_written_bytes, result.ssd_hit_blocks) == (1000, 1)


def test_compression_makes_room_in_each_tier(make_trace, make_scenario):
    trace = make_trace([(float(i), 100, 1, [block]) for i, block in enumerate([1, 2, 3, 4, 1, 2])])
    scenario = make_scenario(trace, dram_compression=4.0, ssd_compression=2.0)
    result = Evaluator(scenario).evaluate(Configuration(1000))
    assert (result.dram_hit_blocks, result.dram_hit_bytes) == (2, 500)
    result = Evaluator(scenario).evaluate(Configuration(0, 99.0, "fast"))
    assert (result.ssd_hit_blocks, result.ssd_hit_bytes, result.ssd_peak_bytes) == (2, 1000, 2000)


def test_a_trace_that_nodes_observed_has_no_gpu_cache(make_trace, make_scenario):
    requests = [(0.0, 100, 1, [0]), (1.0, 100, 1, [0])]
    for observed_at, hits in (("engine", 1), ("node", 0)):
        scenario = make_scenario(make_trace(requests, observed_at=observed_at), gpu_cache_bytes=9000)
        assert Evaluator(scenario).evaluate(Configuration(0)).device_hit_blocks == hits


def test_an_ssd_is_provisioned_for_what_it_keeps_and_for_its_bandwidth(make_trace, make_scenario, make_ssd):
    # 101 blocks of 0.1 GiB in 100 s: with a TTL of 9.5 s ten are held at once, 1.0 GiB and a tenth on top.
    # Writing 1.01 times 0.1 GiB/s at 80 % of the channel takes 5.05 GiB of a medium with 25 MiB/s per GiB.
    gib = 1 << 30
    trace = make_trace([(float(i), 100, 1, [i]) for i in range(101)])
    ssd = make_ssd(1e15)
    slow = Bandwidth(0.0, per_gib=gib / 40)
    classes = {
        "fast": ssd,
        "slow": replace(ssd, speed=MediumSpeed(slow, slow, shared_channel=True)),
        "coarse": replace(ssd, sizes=VolumeSizes(step_bytes=2 * gib)),
    }
    scenario = make_scenario(trace, kv_bytes_per_token=gib // 1000, ssd_classes=classes)
    sizes = {
        name: Evaluator(scenario).evaluate(Configuration(0, 9.5, name, volumes=2)).ssd_bytes / gib
        for name in classes
    }
    assert sizes == pytest.approx({"fast": 1.1, "slow": 1.01 / 0.8 / 0.25, "coarse": 4.0}, rel=1e-4)


def test_the_same_in_another_process(make_trace, make_scenario):
    rng = np.random.default_rng(5)
    trace = make_trace(
        [(i * 0.05, 400, 20, list(range(b, b + 4))) for i, b in enumerate(rng.integers(0, 50, 300) * 4)]
    )
    configuration = Configuration(50_000, (3.0,), "fast", instances=2)
    evaluator = Evaluator(make_scenario(trace, gpu_cache_bytes=20_000))
    here = evaluator.evaluate(configuration), evaluator.coupled(configuration)
    code = (
        "import pickle, sys; e, c = pickle.load(sys.stdin.buffer);"
        "sys.stdout.buffer.write(pickle.dumps((e.evaluate(c), e.coupled(c))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps((evaluator, configuration)), capture_output=True
    )
    assert pickle.loads(done.stdout) == here, done.stderr.decode()


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration(64 << 30, instances=4),
        Configuration(1 << 40, instances=4),
        Configuration(256 << 30, 600.0, "nvme", 8, 4),
        Configuration(0, 120.0, "nvme", 8, 4),
        Configuration(256 << 30, 600.0, "nvme", 8, 2),  # waits of 20 s
    ],
)
@pytest.mark.parametrize(
    ("offload", "routing"), [("writeThrough", "roundRobin"), ("onEvict", "prefixAffine")]
)
def test_two_stages_hit_what_the_coupled_run_hits(
    conversation, make_scenario, make_ssd, configuration, offload, routing
):
    scenario = make_scenario(
        conversation,
        profile=find_profile("Llama-3.1-8B", "h100_sxm", "vllm"),
        kv_bytes_per_token=131_072,
        gpu_cache_bytes=None,
        load_bytes_s=50e9,
        chunk_tokens=8192,
        max_sequences=256,
        semantics="vllm",
        offload=offload,
        routing=routing,
        ssd_classes={"nvme": make_ssd(2e9)},
    )
    evaluator = Evaluator(scenario)
    two_stage, coupled = evaluator.evaluate(configuration), evaluator.coupled(configuration)
    assert coupled.stable
    assert two_stage.prefix_hit_ratio == pytest.approx(coupled.prefix_hit_ratio, abs=0.005)
