"""The policies' contract, and what is particular to each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_cachenode.eviction import POLICIES, LeastRecentlyUsed, make_policy

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
