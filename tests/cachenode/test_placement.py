"""The policies' contract, and what is particular to each."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_cachenode.placement import (
    NEEDED_WORTH,
    POLICIES,
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
    with pytest.raises(ValueError, match="'fifo' is unknown: choose one of lru"):
        make_policy("fifo")


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
        patch.setattr("kvtide_cachenode.placement.lru.PAGE_KEYS", 1)
        patch.setattr("kvtide_cachenode.placement.lru.SETTLED_KEYS", 1)
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
    assert said.written == said.evicted


def test_what_is_written_to_the_ssd_by_hand() -> None:
    """Room for two blocks; 1 is asked for twice in the tier, 2 comes back after its eviction."""
    requests = [[1], [1], [2], [3], [4], [2], [5], [6]]
    written = {name: replay(LeastRecentlyUsed[int](), requests, 1, 2, name).written for name in NEEDED_WORTH}
    # Evicted in this order: 1, 2, 3, 4, 2.
    assert written == {"always": 5, "secondTouch": 2, "reusedOnly": 1}


def test_the_history_knows_what_it_saw() -> None:
    history = History(1024)
    assert not history.seen(b"a")
    assert history.seen(b"a")
    assert sum(history.seen(b"new %d" % number) for number in range(500)) <= 2
