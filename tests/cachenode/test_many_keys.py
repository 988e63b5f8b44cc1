"""Commands of many keys: what is done for all at once is what doing it one by one gives."""

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_cachenode.access_trace.client import Client
from kvtide_cachenode.access_trace.inference import Access, Inference
from kvtide_cachenode.node import Node
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.serve.session import Session
from kvtide_cachenode.store import Store
from kvtide_cachenode.store.store import INLINE_BYTES

if TYPE_CHECKING:
    from kvtide_cachenode.access_trace.ring import Inferred

MI = 1024 * 1024
SIZES = [0, 1, 300, INLINE_BYTES, INLINE_BYTES + 1, 5_000, 70_000]


def session_with(sizes: dict[bytes, int]) -> Session:
    node = Node(Store(8 * MI, 64 * MI, make_policy("lru")), block_tokens=16)
    for key, size in sizes.items():
        node.store.put(key, random.Random(size).randbytes(size))
    return Session(node, 1, "test")


@given(st.lists(st.one_of(st.none(), st.sampled_from(SIZES)), min_size=1, max_size=12), st.booleans())
def test_an_array_of_values_is_what_one_after_the_other_is(sizes: list[int | None], resp3: bool) -> None:
    held = {b"%d" % size: size for size in sizes if size is not None}
    session = session_with(held)
    session.nil = b"_\r\n" if resp3 else b"$-1\r\n"
    store = session.node.store
    keys = [b"absent" if size is None else b"%d" % size for size in sizes]
    session.reply_entries(store.get_all(keys), (b"*%d" % len(keys),))
    expected = b"*%d\r\n" % len(sizes)
    for size in sizes:
        value = b"" if size is None else random.Random(size).randbytes(size)
        expected += session.nil if size is None else b"$%d\r\n%b\r\n" % (size, value)
    assert b"".join(session.out) == expected
    assert session.queued_bytes == len(expected)
    for key in held:  # what is being sent stays as it is, although its key is gone
        store.delete(key)
    assert b"".join(session.out) == expected
    session.out.clear()
    session.sent(session.queued_bytes)
    store.check()
    assert store.used_bytes == 0


def test_keys_read_together_count_and_stay_as_keys_read_alone() -> None:
    together, alone = (session_with({b"%d" % n: n for n in range(5)}).node.store for _ in range(2))
    keys = [b"3", b"absent", b"0", b"3"]
    assert [entry and entry.length for entry in together.get_all(keys)] == [3, None, 0, 3]
    for key in keys:
        alone.get(key)
    assert together.counted() == alone.counted()
    orders = [[key for page in store.hottest() for key in page] for store in (together, alone)]
    assert orders == [[b"3", b"0", b"4", b"2", b"1"]] * 2


Step = tuple[Access, int, bool]
"""What is done, to which of a few blocks, and whether it was there."""

steps = st.lists(
    st.lists(
        st.tuples(st.sampled_from(list(Access)), st.integers(0, 5), st.booleans()), min_size=1, max_size=12
    ),
    max_size=6,
)


@pytest.mark.parametrize("gap_s", [0.5, 30.0])
@settings(max_examples=150, deadline=None)
@given(turns=steps)
def test_single_keys_that_arrive_together_are_traced_as_if_told_one_by_one(
    gap_s: float, turns: list[list[Step]]
) -> None:
    """The session tells runs of single keys at once; the trace must not show it."""
    told: list[Inferred] = []
    one_by_one = Client(Inference(told.append))
    session = session_with({})
    seen: list[Inferred] = []
    session.inference = Client(Inference(seen.append))
    for number, turn in enumerate(turns):
        session.now_s = 1000.0 + number * gap_s
        for access, block, hit in turn:
            key = b"block-%d" % block
            session.observe(access, (key,), (hit,))
            one_by_one.access(access, (key,), (hit,), session.now_s)
        session.report()
    session.inference.end()
    one_by_one.end()
    assert seen == told
