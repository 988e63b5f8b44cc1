"""Slots and shares: the specification's slot function, exact shares, fewest moves, one owner each."""

import string
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot as redis_key_slot

from kvtide_cachenode.cluster.shares import first_topology, rebalanced, slot_counts
from kvtide_cachenode.cluster.slots import SLOTS, hash_tag, key_slot, keys_in_slot
from kvtide_cachenode.cluster.topology import Node, Topology

TEXT = st.text(alphabet=string.ascii_letters + "{}:@", max_size=40).map(str.encode)
SIZES = st.lists(st.integers(0, 1 << 42), min_size=1, max_size=12).filter(any)


def members(sizes):
    return [Node(f"{at:040x}", "10.0.0.1", 7000 + at, size) for at, size in enumerate(sizes)]


@given(st.one_of(TEXT, st.binary(max_size=200)))
def test_redis_pys_slot_function_agrees(key):
    assert key_slot(key) == redis_key_slot(key)


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        (b"{user1000}.following", b"user1000"),
        (b"foo{}{bar}", b"foo{}{bar}"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        (b"foo{bar", b"foo{bar"),
        (b"}{", b"}{"),
    ],
)
def test_hash_tags_of_the_specification(key, tag):
    assert hash_tag(key) == tag
    assert key_slot(key) == key_slot(tag.strip(b"{}")) or b"{" in tag


def test_the_specifications_check_value():
    assert key_slot(b"123456789") == 0x31C3 % SLOTS


def test_keys_in_slot_are_those_and_in_order():
    keys = [b"k%d" % number for number in range(5000)] + [b"{k7}x"]
    assert list(keys_in_slot(keys, key_slot(b"k7"))) == [
        key for key in keys if key_slot(key) == key_slot(b"k7")
    ]


def moved(before, after):
    owners = zip(before.owners, after.owners, strict=True)
    return sum(before.nodes[old].id != after.nodes[new].id for old, new in owners)


def assert_proportional(topology):
    total = sum(node.dram_bytes for node in topology.nodes)
    for at, node in enumerate(topology.nodes):
        share = Fraction(SLOTS * node.dram_bytes, total)
        count = topology.owners.count(at)
        assert abs(count - share) < 1
        assert count == sum(last - first + 1 for first, last in topology.ranges_of(node.id))
    assert sum(topology.owners.count(at) for at in range(len(topology.nodes))) == SLOTS


@given(SIZES, st.data())
@settings(max_examples=40, deadline=None)
def test_shares_are_proportional_and_the_fewest_slots_move(sizes, data):
    before = first_topology(members(sizes))
    assert_proportional(before)
    new_sizes = data.draw(st.lists(st.integers(0, 1 << 42), min_size=1, max_size=14).filter(any))
    nodes = members(new_sizes)[:: data.draw(st.sampled_from([1, -1]))]
    after = rebalanced(before, nodes)
    assert_proportional(after)
    # No assignment within one slot of proportional moves fewer: whatever the rounding, a node gives up what
    # it has above its share rounded up, and the slots that must go somewhere are at least those that nodes
    # lack of their share rounded down.
    total = sum(new_sizes)
    owned = {node.id: before.owners.count(at) for at, node in enumerate(before.nodes)}
    give = lack = sum(owned[node.id] for node in before.nodes if node.id not in {n.id for n in nodes})
    lack = 0
    for node in nodes:
        share = Fraction(SLOTS * node.dram_bytes, total)
        have = owned.get(node.id, 0)
        give += max(0, have + (-share.__floor__() if share.denominator == 1 else -share.__ceil__()))
        lack += max(0, share.__floor__() - have)
    assert max(give, lack) <= moved(before, after) <= max(give, lack) + len(nodes)
    assert rebalanced(after, nodes).owners == after.owners


@given(st.lists(st.integers(0, 9), min_size=2, max_size=4).filter(any), st.data())
@settings(deadline=None)
def test_rounding_is_the_best_of_all_roundings(sizes, data):
    cuts = sorted(
        data.draw(st.lists(st.integers(0, SLOTS), min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    )
    owned = [high - low for low, high in zip([0, *cuts], [*cuts, SLOTS], strict=True)]
    counts = slot_counts(sizes, owned)
    floors = [SLOTS * size // sum(sizes) for size in sizes]
    may_be_more = [SLOTS * size % sum(sizes) > 0 for size in sizes]
    best = SLOTS
    for bits in range(1 << len(sizes)):
        more = [bits >> at & 1 for at in range(len(sizes))]
        option = [floor + extra for floor, extra in zip(floors, more, strict=True)]
        if sum(option) == SLOTS and all(
            may or not extra for may, extra in zip(may_be_more, more, strict=True)
        ):
            best = min(best, sum(max(0, have - want) for have, want in zip(owned, option, strict=True)))
    assert sum(max(0, have - want) for have, want in zip(owned, counts, strict=True)) == best


def test_a_node_of_no_dram_is_emptied_and_no_dram_at_all_is_refused():
    before = first_topology(members([3, 3, 3]))
    after = rebalanced(before, members([3, 0, 3]))
    assert after.ranges_of(members([1, 1])[1].id) == []
    with pytest.raises(ValueError, match="give at least one node dram_bytes"):
        rebalanced(before, members([0, 0, 0]))


A, B = members([1, 1])
HALVES = [{"first": 0, "last": 8191, "node": A.id}, {"first": 8192, "last": SLOTS - 1, "node": B.id}]


def document(**changes):
    nodes = [msgspec.to_builtins(node) for node in (A, B)]
    return {"epoch": 1, "nodes": nodes, "slots": HALVES, **changes}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epoch": 0}, "epoch 0 is not between 1"),
        ({"epoch": 2**53}, "epoch 9007199254740992 is not between 1"),
        ({"nodes": []}, "0 nodes are not between 1 and 255"),
        ({"nodes": [msgspec.to_builtins(A)] * 2}, "node id 0{40} is there twice"),
        ({"slots": HALVES[:1]}, "slot 8192 has no owner; every slot 0-16383 needs exactly one"),
        ({"slots": [*HALVES, HALVES[0]]}, "slots 0-8191 of 0{40} overlap another range"),
        ({"slots": [{"first": 0, "last": 16384, "node": A.id}]}, "slots 0-16384 are not an ascending range"),
        ({"slots": [{"first": 0, "last": 16383, "node": "x"}]}, "slots 0-16383 name 'x', which is no node"),
        ({"moves": [{"first": 5, "last": 5, "node": A.id}]}, "slot 5 moves to 0{40}, which owns it already"),
        (
            {"nodes": [{"id": "A", "host": "h", "port": 1, "dram_bytes": 1}]},
            "40 lower-case hexadecimal digits",
        ),
        ({"nodes": [{"id": A.id, "host": "a b", "port": 1, "dram_bytes": 1}]}, "no host name or address"),
        ({"nodes": [{"id": A.id, "host": "h", "port": 0, "dram_bytes": 1}]}, "port 0 of node"),
        (
            {"nodes": [{"id": A.id, "host": "h", "port": 1, "dram_bytes": -1}]},
            "dram_bytes -1 of node .* is not between 0",
        ),
    ],
)
def test_a_bad_document_is_refused_in_a_sentence(changes, sentence):
    with pytest.raises(msgspec.ValidationError, match=sentence):
        msgspec.convert(document(**changes), Topology)


def test_a_good_document_survives_json():
    topology = msgspec.convert(document(moves=[{"first": 5, "last": 9, "node": B.id}]), Topology)
    assert msgspec.json.decode(msgspec.json.encode(topology), type=Topology) == topology
    assert topology.target(4) is None
    assert topology.target(7) == B
    assert topology.owner(7) == A
