"""Who follows redirects, told by the keys alone."""

import random

from hypothesis import given
from hypothesis import strategies as st

from kvtide_cachenode.cluster.awareness import ENOUGH_BITS, MAX_SLOTS, Evidence, bits_of

SLOTS = 16384


def test_a_third_of_the_slots_needs_26_different_ones():
    bits = bits_of(SLOTS // 3, SLOTS)
    evidence = Evidence()
    for slot in range(25):
        evidence.owned(slot, bits)
    assert not evidence.enough
    evidence.owned(25, bits)
    assert evidence.enough


def test_one_slot_again_and_again_proves_nothing():
    evidence = Evidence()
    for _ in range(10_000):
        evidence.owned(7, bits_of(1, SLOTS))
    assert not evidence.enough


def test_who_owns_everything_learns_nothing():
    evidence = Evidence()
    for slot in range(SLOTS):
        evidence.owned(slot, bits_of(SLOTS, SLOTS))
    assert not evidence.enough
    assert bits_of(0, SLOTS) == 0


def test_a_foreign_key_ends_the_count_even_where_it_was_nearly_enough():
    evidence = Evidence()
    for slot in range(25):
        evidence.owned(slot, bits_of(SLOTS // 3, SLOTS))
    evidence.foreign()
    evidence.owned(26, bits_of(SLOTS // 3, SLOTS))
    assert not evidence.enough


@given(st.integers(1, SLOTS - 1), st.integers(0, 2**32))
def test_keys_at_random_are_never_taken_for_a_map(owned, seed):
    chance, evidence, bits = random.Random(seed), Evidence(), bits_of(owned, SLOTS)
    for _ in range(3000):
        slot = chance.randrange(SLOTS)
        if slot < owned:
            evidence.owned(slot, bits)
        else:
            evidence.foreign()
        assert not evidence.enough


def test_the_memory_of_a_connection_is_bounded():
    evidence = Evidence()
    for slot in range(SLOTS):
        evidence.owned(slot, ENOUGH_BITS / SLOTS)
    assert len(evidence._slots) == MAX_SLOTS
