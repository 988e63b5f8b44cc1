"""Stack distances against ones worked by hand and a list kept in order of recency."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_operator.simulate.cache.stack_distance import NEVER, stack_distances


def distances_of(blocks: list[int]) -> list[int]:
    return stack_distances(np.array(blocks, dtype=np.int32), max(blocks, default=-1) + 1).tolist()


def test_distances_worked_by_hand() -> None:
    assert distances_of([]) == []
    assert distances_of([0, 0]) == [NEVER, 1]
    assert distances_of([0, 1, 0]) == [NEVER, NEVER, 2]
    # A B C B A A: B again after C and itself; A again after B, C and itself.
    assert distances_of([0, 1, 2, 1, 0, 0]) == [NEVER, NEVER, NEVER, 2, 3, 1]


@settings(deadline=None)  # the first call loads compiled code
@given(st.lists(st.integers(0, 9), max_size=80))
def test_distances_are_depths_in_a_recency_list(blocks: list[int]) -> None:
    recent: list[int] = []
    expected = []
    for block in blocks:
        expected.append(recent.index(block) + 1 if block in recent else NEVER)
        if block in recent:
            recent.remove(block)
        recent.insert(0, block)
    assert distances_of(blocks) == expected
