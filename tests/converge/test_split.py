"""A target over nodes: how many, how large, in what memory and on what volume."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.converge.simulated_cluster import spec_of

from kvtide_cachenode.contract.sizing import MI, PAGE_BYTES, capacity_for, limit_for
from kvtide_operator.api.tierclass import Volume
from kvtide_operator.decide.split import claim_for, node_sizes, ssd_for, with_held
from kvtide_operator.decide.steps import NodeSizes
from kvtide_operator.decide.target import Target

GI = 1 << 30
targets = st.integers(1, 1 << 42)
limits = st.none() | st.integers(limit_for(MI), limit_for(1 << 38))
counts = st.tuples(st.integers(1, 8), st.integers(0, 8)).map(lambda pair: (pair[0], sum(pair)))
volumes = st.builds(
    Volume,
    min=st.integers(0, GI),
    step=st.integers(1, GI),
    max=st.none() | st.integers(GI, 1 << 44),
)


def spec(replicas=(1, 1), max_memory=None, ssd=False):
    """Bounds are checked elsewhere; here any may come together."""
    made = spec_of(replicas, None, ssd, "Keep")
    return made.model_copy(update={"nodes": made.nodes.model_copy(update={"max_memory": max_memory})})


@given(targets, counts, limits)
def test_nodes_hold_the_target_or_as_much_as_they_may(target, replicas, max_memory):
    sizes = node_sizes(Target(target), spec(replicas, max_memory))
    assert replicas[0] <= sizes.replicas <= replicas[1]
    assert sizes.dram_bytes % PAGE_BYTES == 0
    assert sizes.memory_bytes == limit_for(sizes.dram_bytes)
    total = sizes.replicas * sizes.dram_bytes
    most = None if max_memory is None else replicas[1] * capacity_for(max_memory)
    assert total >= (target if most is None else min(target, most))
    assert total < target + sizes.replicas * PAGE_BYTES
    if max_memory is not None:
        assert sizes.memory_bytes <= max(max_memory + MI, limit_for(MI))


@given(targets, targets, counts, limits)
def test_more_is_never_less(one, other, replicas, max_memory):
    low, high = (node_sizes(Target(size), spec(replicas, max_memory)) for size in sorted((one, other)))
    assert low.replicas <= high.replicas
    assert low.replicas * low.dram_bytes <= high.replicas * high.dram_bytes + high.replicas * PAGE_BYTES


def test_sizes_are_tried_before_replicas():
    few = spec((2, 8), limit_for(128 * GI))
    assert node_sizes(Target(64 * GI), few).replicas == 2
    assert node_sizes(Target(256 * GI), few) == NodeSizes(2, 128 * GI, limit_for(128 * GI), 0, None)
    assert node_sizes(Target(257 * GI), few).replicas == 3
    most = capacity_for(limit_for(128 * GI))
    assert node_sizes(Target(4096 * GI), few) == NodeSizes(8, most, limit_for(128 * GI), 0, None)


@given(st.integers(0, 1 << 43), volumes)
def test_a_volume_has_room_for_its_tier_as_far_as_it_is_sold(ssd, volume):
    claim = claim_for(ssd, volume)
    if volume.max is not None and claim == volume.max:
        return
    assert claim >= volume.min
    assert claim == volume.min or claim % volume.step == 0
    assert ssd_for(claim) >= ssd // PAGE_BYTES * PAGE_BYTES


@given(st.integers(0, 1 << 43), st.integers(0, 1 << 43), volumes)
def test_a_larger_tier_never_has_a_smaller_volume(one, other, volume):
    low, high = sorted((one, other))
    assert claim_for(low, volume) <= claim_for(high, volume)
    assert ssd_for(low) <= ssd_for(high)


def test_volumes_by_hand():
    sold = Volume(min=20 * GI, step=GI, max=100 * GI)
    assert node_sizes(Target(GI), spec(ssd=True), sold).claim_bytes == 20 * GI
    sizes = node_sizes(Target(GI, 80 * GI), spec((2, 2), ssd=True), sold)
    assert (sizes.ssd_bytes, sizes.claim_bytes) == (40 * GI, 43 * GI)
    sizes = node_sizes(Target(GI, 400 * GI), spec((2, 2), ssd=True), sold)
    assert sizes.claim_bytes == 100 * GI
    assert sizes.ssd_bytes == ssd_for(100 * GI) < 100 * GI
    assert node_sizes(Target(GI, 80 * GI), spec(), sold).claim_bytes is None


@given(targets, counts, limits, st.dictionaries(st.integers(0, 15), st.integers(0, 1 << 40), max_size=16))
def test_what_held_nodes_lack_others_hold_within_bounds(target, replicas, max_memory, held):
    made = spec(replicas, max_memory)
    alone = node_sizes(Target(target), made)
    sizes = with_held(alone, Target(target), made, held)
    assert alone.replicas <= sizes.replicas <= replicas[1]
    assert sizes.memory_bytes == limit_for(sizes.dram_bytes)
    if max_memory is not None:
        assert sizes.dram_bytes <= max(capacity_for(max_memory), MI)
    free = [ordinal for ordinal in range(sizes.replicas) if ordinal not in held]
    kept = [min(held[ordinal], alone.dram_bytes) for ordinal in held if ordinal < sizes.replicas]
    lacks = target - sum(kept) - len(free) * sizes.dram_bytes
    bounded = max_memory is not None or sizes.replicas < replicas[1]
    if free and not bounded:
        assert lacks <= 0


@pytest.mark.parametrize(
    ("replicas", "max_gi", "held", "wanted"),
    [
        ((2, 2), None, {}, (2, 16)),  # nobody is held
        ((2, 2), None, {0: 8 * GI}, (2, 24)),  # there is one other
        ((2, 2), 20, {0: 8 * GI}, (2, 20)),  # which may have no more
        ((2, 4), 20, {0: 8 * GI}, (3, 12)),  # so there is one more
        ((2, 4), 24, {0: 8 * GI}, (2, 24)),  # sizes before replicas
        ((2, 4), None, {0: 8 * GI}, (3, 12)),
        ((2, 2), None, {0: 32 * GI}, (2, 16)),  # too much changes nothing for the others
        ((2, 2), None, {0: 0}, (2, 32)),  # lost
        ((2, 2), None, {0: 0, 1: 0}, (2, 16)),  # all lost
        ((2, 4), None, {0: 15 * GI}, (2, 16)),  # too little for a node of its own
        ((2, 4), None, {0: 8 * GI, 1: 8 * GI}, (3, 16)),
        ((2, 4), None, {0: 8 * GI, 1: 8 * GI, 2: 0}, (4, 16)),
    ],
)
def test_held_by_hand(replicas, max_gi, held, wanted):
    made = spec(replicas, None if max_gi is None else limit_for(max_gi * GI))
    target = Target(32 * GI)
    sizes = with_held(NodeSizes(2, 16 * GI, limit_for(16 * GI), 0, None), target, made, held)
    assert (sizes.replicas, sizes.dram_bytes // GI) == wanted
