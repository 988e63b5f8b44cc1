"""The tiers against the obvious implementation of the same rules, on random trees of prefixes."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_operator.simulate.cache.curve import hit_curve
from kvtide_operator.simulate.cache.passes import cache_pass
from kvtide_operator.simulate.cache.pool import empty_pool
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.evaluator import Evaluator
from kvtide_operator.simulate.requests import requests_of
from kvtide_operator.simulate.sizing import retention


@st.composite
def prefixes(draw):
    """Prompts of a growing tree: each goes on from a part of an earlier one."""
    prompts: list[list[int]] = []
    fresh = 0
    for _ in range(draw(st.integers(1, 25))):
        base = prompts[draw(st.integers(0, len(prompts) - 1))] if prompts and draw(st.booleans()) else []
        kept = base[: draw(st.integers(0, len(base)))]
        new = draw(st.integers(0, 5))
        prompts.append(kept + list(range(fresh, fresh + new)))
        fresh += new
    return prompts


class Lru:
    def __init__(self, capacity: int) -> None:
        self.capacity, self.blocks = capacity, OrderedDict[int, None]()

    def use(self, block: int) -> int | None:
        """Returns the block that no longer fits."""
        self.blocks.pop(block, None)
        self.blocks[block] = None
        return self.blocks.popitem(last=False)[0] if len(self.blocks) > self.capacity else None


def leading(blocks, held) -> int:
    return next((i for i, block in enumerate(blocks) if block not in held), len(blocks))


def play(prompts, device_blocks, dram_blocks, engines, offload):
    """Leading device hits and DRAM residency of each request, and the blocks that each made DRAM demote."""
    devices, dram = [Lru(device_blocks) for _ in range(engines)], Lru(dram_blocks)
    seen = []
    for i, prompt in enumerate(prompts):
        device = devices[i % engines]
        looked_up = leading(prompt, device.blocks), [block in dram.blocks for block in prompt]
        demoted = []
        for block in prompt:
            known = block in device.blocks or block in dram.blocks
            if offload == "writeThrough" or (offload == "selective" and known):
                demoted.append(dram.use(block))
            elif offload == "onEvict":
                dram.blocks.pop(block, None)
        for block in reversed(prompt):
            evicted = device.use(block)
            if evicted is not None and offload == "onEvict":
                demoted.append(dram.use(evicted))
        seen.append((*looked_up, [block for block in demoted if block is not None]))
    return seen


@settings(max_examples=150, deadline=None)
@given(
    prompts=prefixes(),
    device=st.integers(1, 12),
    dram=st.integers(0, 20),
    engines=st.integers(1, 3),
    offload=st.sampled_from(["writeThrough", "onEvict", "selective"]),
)
def test_gpu_caches_and_dram(make_trace, prompts, device, dram, engines, offload):
    trace = make_trace([(float(i), 100 * len(p), 1, p) for i, p in enumerate(prompts)])
    requests = requests_of(trace, "mooncake")
    passed = cache_pass(requests, empty_pool(requests, engines, device, dram, offload, "roundRobin"))
    expected = play([list(trace.blocks_of(i)) for i in range(len(prompts))], device, dram, engines, offload)
    for row, (device_hits, in_dram, demoted) in zip(passed.requests.row, expected, strict=True):
        assert row.device_hits == device_hits
        assert list(passed.pool.in_dram[row.start : row.start + row.hittable]) == in_dram
        assert list(passed.pool.demoted.block[row.demoted_start : row.demoted_end]) == demoted


def keep_on_ssd(passed, trace, ttl_s, group):
    """SSD hits under prefix continuity, copies written and held at most, with expiry looked up one by one."""
    expiry, written, peak, hits = {}, 0, 0, 0
    for i, row in enumerate(passed.requests.row):
        now_s = row.arrival_s
        for at, block in enumerate(trace.blocks_of(i)):
            if passed.pool.in_dram[row.start + at]:
                continue
            if expiry.get(block, -1.0) < now_s:
                break
            hits += 1
        for block in passed.pool.demoted.block[row.demoted_start : row.demoted_end]:
            ttl = ttl_s[group[block]]
            if ttl > 0:
                written += expiry.get(block, -1.0) < now_s
                expiry[block] = now_s + ttl
                peak = max(peak, sum(end >= now_s for end in expiry.values()))
    return hits, written, peak


@settings(max_examples=100, deadline=None)
@given(
    prompts=prefixes(),
    dram=st.integers(0, 15),
    ttl_s=st.lists(st.sampled_from([0.0, 1.5, 4.5, 9.5, 100.5]), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_the_ssd_under_group_ttls(make_trace, make_scenario, make_profile, prompts, dram, ttl_s, seed):
    # A request a second, on engines that take a microsecond: arrival, admission and insertion coincide.
    trace = make_trace([(float(i), 100 * len(p), 1, p) for i, p in enumerate(prompts)])
    group = np.random.default_rng(seed).integers(len(ttl_s), size=trace.unique_blocks).astype(np.int8)
    ttl_s = tuple(ttl_s[: group.max(initial=0) + 1])
    evaluator = Evaluator(make_scenario(trace, block_group=group, profile=make_profile(1e-9)))
    configuration = Configuration(dram * 1000, ttl_s, "fast")
    passed = evaluator.cache(configuration.dram_bytes)
    hits, written, peak = keep_on_ssd(passed, trace, ttl_s, group)
    kept = retention(passed, group, ttl_s, 0)
    assert (kept.written_blocks, kept.peak_blocks) == (written, peak)
    for result in (evaluator.evaluate(configuration), evaluator.coupled(configuration)):
        assert result.ssd_hit_blocks == hits
        assert result.ssd_written_bytes == written * 1000
        assert result.ssd_peak_bytes == peak * 1000


def test_two_stages_and_the_coupled_run_hit_alike_when_requests_do_not_meet(
    make_trace, make_scenario, make_profile
):
    rng = np.random.default_rng(7)
    prompts = [list(range(start, start + 6)) for start in rng.integers(0, 12, 200) * 10]
    trace = make_trace([(10.0 * i, 600, 5, p) for i, p in enumerate(prompts)])
    evaluator = Evaluator(
        make_scenario(trace, gpu_cache_bytes=12_000, offload="onEvict", profile=make_profile(1e-9))
    )
    configuration = Configuration(20_000, 155.0, "fast")
    two_stage, coupled = evaluator.evaluate(configuration), evaluator.coupled(configuration)
    assert two_stage == coupled
    assert min(two_stage.device_hit_blocks, two_stage.dram_hit_blocks, two_stage.ssd_hit_blocks) > 0


def test_the_byte_cap_displaces_the_copy_with_the_oldest_stamp(make_trace, make_scenario):
    trace = make_trace([(10.0 * i, 100, 1, [block]) for i, block in enumerate([1, 2, 3, 1, 2, 2])])
    evaluator = Evaluator(make_scenario(trace, ssd_max_bytes=2000))
    result = evaluator.evaluate(Configuration(0, 1e6, "fast"))
    assert result.ssd_bytes == 2000
    assert result.displaced_bytes == 3000  # 1 for 3, 2 for 1, 3 for 2
    assert result.ssd_hit_blocks == 1


@settings(max_examples=60, deadline=None)
@given(prompts=prefixes(), ttls=st.tuples(st.integers(0, 30), st.integers(0, 30)), dram=st.integers(0, 10))
def test_a_longer_ttl_never_lowers_hits(make_trace, make_scenario, prompts, ttls, dram):
    trace = make_trace([(float(i), 100 * len(p), 1, p) for i, p in enumerate(prompts)])
    evaluator = Evaluator(make_scenario(trace))
    shorter, longer = sorted(ttl + 0.5 for ttl in ttls)
    hits = [
        evaluator.evaluate(Configuration(dram * 1000, ttl, "fast")).prefix_hit_ratio
        for ttl in (shorter, longer)
    ]
    assert hits[0] <= hits[1]


@settings(max_examples=60, deadline=None)
@given(prompts=prefixes(), sizes=st.tuples(st.integers(0, 30), st.integers(0, 30)))
def test_more_dram_never_lowers_hits(make_trace, make_scenario, prompts, sizes):
    trace = make_trace([(float(i), 100 * len(p), 1, p) for i, p in enumerate(prompts)])
    evaluator = Evaluator(make_scenario(trace))
    hits = [evaluator.evaluate(Configuration(size * 1000)).prefix_hit_ratio for size in sorted(sizes)]
    assert hits[0] <= hits[1]


@pytest.mark.parametrize("blocks", [1, 500, 4000, 16_000, 64_000])
def test_dram_hits_what_the_curve_of_stack_distances_says(conversation, make_scenario, make_profile, blocks):
    scenario = make_scenario(conversation, kv_bytes_per_token=1, profile=make_profile(1e-10, kv_tokens=10**6))
    result = Evaluator(scenario).evaluate(Configuration(blocks * 512))
    assert result.prefix_hit_ratio == hit_curve(conversation).hit_ratio_at(blocks)
