"""The policies' contract, and what is particular to each."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_cachenode.eviction import (
    NEEDED_WORTH,
    POLICIES,
    GreedyDualSizeFrequency,
    History,
    LeastRecentlyUsed,
    make_policy,
    replay,
)

steps = st.lists(st.tuples(st.sampled_from(["use", "remove", "evict"]), st.integers(0, 9)), max_size=80)


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(steps)
def test_a_victim_is_always_a_key_it_holds(name: str, steps: list[tuple[str, int]]) -> None:
    policy, held = make_policy(name), set[int]()
    for step, key in steps:
        if step == "use":
            (policy.touched(key) if key in held else policy.inserted(key, 10))
            held.add(key)
        elif step == "remove" and key in held:
            policy.removed(key)
            held.remove(key)
        elif step == "evict":
            victim = policy.victim()
            assert victim == policy.victim(), "asking changed the answer"
            assert (victim in held) if held else victim is None
            if victim is not None:
                policy.removed(victim)
                held.remove(victim)


def test_lru_order_by_hand() -> None:
    policy = LeastRecentlyUsed[str]()
    for key in "abc":
        policy.inserted(key, 1)
    policy.touched("a")
    order = []
    while (victim := policy.victim()) is not None:
        order.append(victim)
        policy.removed(victim)
    assert order == ["b", "c", "a"]


def test_an_unknown_policy_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'fifo' is unknown: choose one of gdsf, lru"):
        make_policy("fifo")


def test_gdsf_gives_up_leaves_before_roots_and_large_before_small() -> None:
    policy = GreedyDualSizeFrequency[bytes]()
    chain = [b"kvt:m:l:0:root:%d:h" % depth for depth in range(4)]
    for key in chain:
        policy.inserted(key, 1 << 20)
    policy.inserted(b"large", 4 << 20)
    order = []
    while (victim := policy.victim()) is not None:
        order.append(victim)
        policy.removed(victim)
    assert order == [b"large", *reversed(chain)]


def test_gdsf_forgets_old_favourites() -> None:
    """100 uses long ago do not outweigh 3 uses now for ever: the clock rises with every victim."""
    policy = GreedyDualSizeFrequency[int](lambda _: 0)
    policy.inserted(0, 4096)
    for _ in range(100):
        policy.touched(0)
    evicted = []
    for key in range(1, 500):
        policy.inserted(key, 4096)
        policy.touched(key)
        if key > 4:
            victim = policy.victim()
            assert victim is not None
            policy.removed(victim)
            evicted.append(victim)
    assert 0 in evicted


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(steps)
def test_the_hottest_are_the_victims_backwards(name: str, steps: list[tuple[str, int]]) -> None:
    policy, held = make_policy(name), set[int]()
    for _, key in steps:
        (policy.touched(key) if key in held else policy.inserted(key, 10))
        held.add(key)
    hottest = [key for page in policy.hottest() for key in page]
    order = []
    while (victim := policy.victim()) is not None:
        order.append(victim)
        policy.removed(victim)
    assert order == hottest[::-1]


Change = tuple[str, int]
changes = st.lists(
    st.lists(st.tuples(st.sampled_from(["use", "remove", "evict"]), st.integers(0, 30)), max_size=6),
    max_size=12,
)


@given(st.lists(st.integers(0, 30), unique=True), changes, st.integers(0, 12))
def test_lru_stays_exact_while_it_is_listed(
    keys: list[int], changes: list[list[Change]], pages_read: int
) -> None:
    """A page a key; between two anything changes, and the listing may be given up in the middle."""
    policy = LeastRecentlyUsed[int]()
    order = list(keys)
    for key in keys:
        policy.inserted(key, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvtide_cachenode.eviction.lru.PAGE_KEYS", 1)
        patch.setattr("kvtide_cachenode.eviction.lru.SETTLED_KEYS", 1)
        for wanted in (pages_read, 1000):
            before, kept, listed = list(order), set(order), list[int]()
            listing = policy.hottest()
            for page in islice(listing, wanted):
                listed += page
                for what, key in changes.pop() if changes else ():
                    apply(policy, order, what, key)
                    kept &= set(order)
                assert policy.victim() == (order[0] if order else None)
                if not listed:  # what an earlier listing left is put in order first
                    before, kept = list(order), set(order)
            assert len(set(listed)) == len(listed)
            assert listed == [key for key in reversed(before) if key in listed]
            if wanted == 1000:
                assert kept <= set(listed)
            del listing
    for what, key in (change for each in changes for change in each):
        apply(policy, order, what, key)
    while (victim := policy.victim()) is not None:
        assert victim == order.pop(0)
        policy.removed(victim)
    assert not order


def apply(policy: LeastRecentlyUsed[int], order: list[int], what: str, key: int) -> None:
    if what == "evict":
        if (victim := policy.victim()) is not None:
            policy.removed(victim)
            order.remove(victim)
    elif key not in order:
        policy.inserted(key, 1)
        order.append(key)
    elif what == "remove":
        policy.removed(key)
        order.remove(key)
    else:
        policy.touched(key)
        order.remove(key)
        order.append(key)


def test_gdsf_sorts_out_removed_keys_a_few_at_a_time() -> None:
    policy = GreedyDualSizeFrequency[int](lambda _: 0)
    looked_at = 0
    current = policy._current

    def counted(item: tuple[float, int, int, int]) -> bool:
        nonlocal looked_at
        looked_at += 1
        return current(item)

    policy._current = counted  # type: ignore[method-assign]
    for key in range(3000):
        policy.inserted(key, 4096)
    for key in range(2900):
        policy.removed(key)
    for key in range(3000, 4000):
        looked_at = 0
        policy.inserted(key, 4096)
        assert looked_at <= 8
    assert len(policy._heap) + len(policy._old_heap) < 2 * 1100 + 100
    order = []
    while (victim := policy.victim()) is not None:
        order.append(victim)
        policy.removed(victim)
    assert order == [*range(2900, 4000)]


def brute_force_lru(requests: list[list[int]], room: int) -> tuple[int, int]:
    order: list[int] = []
    hit = evicted = 0
    for request in requests:
        for block in request:
            if block not in order:
                break
            hit += 1
        for block in request:
            if block in order:
                order.remove(block)
            order.append(block)
            if len(order) > room:
                order.pop(0)
                evicted += 1
    return hit, evicted


@given(st.lists(st.lists(st.integers(0, 12), unique=True, max_size=6), max_size=30), st.integers(1, 10))
def test_the_simulated_twin_agrees_with_a_brute_force_lru(requests: list[list[int]], room: int) -> None:
    said = replay(LeastRecentlyUsed[int](), requests, 100, room * 100)
    assert (said.hit, said.evicted) == brute_force_lru(requests, room)
    assert said.requested == sum(map(len, requests))
    assert said.admitted == said.evicted


def test_write_admission_by_hand() -> None:
    """Room for two blocks; 1 is asked for twice in the tier, 2 comes back after its eviction."""
    requests = [[1], [1], [2], [3], [4], [2], [5], [6]]
    admitted = {
        name: replay(LeastRecentlyUsed[int](), requests, 1, 2, name).admitted for name in NEEDED_WORTH
    }
    # Evicted in this order: 1, 2, 3, 4, 2.
    assert admitted == {"always": 5, "secondTouch": 2, "reusedOnly": 1}


def test_the_history_knows_what_it_saw() -> None:
    history = History(1024)
    assert not history.seen(b"a")
    assert history.seen(b"a")
    assert sum(history.seen(b"new %d" % number) for number in range(500)) <= 2
