"""Extents never overlap, the books balance, and pages are really given back."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_cachenode.store.arena import PAGE_BYTES, Arena, extent_bytes

MI = 1024 * 1024


@given(st.integers(1, 512 * MI))
def test_an_extent_is_whole_pages_and_wastes_at_most_a_32nd_and_a_page(length: int) -> None:
    size = extent_bytes(length)
    pages = -(-length // PAGE_BYTES) * PAGE_BYTES
    assert size % PAGE_BYTES == 0
    assert pages <= size <= pages * (1 + 1 / 32) + PAGE_BYTES
    assert size == pages or length >= 64 * 1024


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3 * MI)), max_size=60), st.integers(4, 24))
@settings(max_examples=80, deadline=None)
def test_books_balance_and_contents_stay(steps: list[tuple[bool, int]], limit_mi: int) -> None:
    arena, limit = Arena(32 * MI), limit_mi * MI
    held: dict[int, tuple[int, int]] = {}
    for number, (allocates, length) in enumerate(steps):
        if allocates and arena.used_bytes + extent_bytes(length) <= limit:
            start = arena.allocate(length, extent_bytes(length), limit)
            assert start is not None
            view = arena.view(start, length)
            view[0] = view[length - 1] = number
            held[start] = (length, number)
        elif held:
            start = sorted(held)[length % len(held)]
            length, number = held.pop(start)
            view = arena.view(start, length)
            assert view[0] == view[length - 1] == number
            arena.free(start)
        assert arena.used_bytes + arena.warm_bytes <= limit
        arena.check()
    for start, (length, number) in held.items():
        view = arena.view(start, length)
        assert view[0] == view[length - 1] == number


def test_a_freed_extent_is_reused_warm_by_the_same_size() -> None:
    arena = Arena(32 * MI)
    first = arena.allocate(MI, extent_bytes(MI), 8 * MI)
    assert first is not None
    arena.view(first, MI)[:] = b"x" * MI
    arena.free(first)
    assert arena.allocate(MI, extent_bytes(MI), 8 * MI) == first
    assert arena.warm_bytes == 0
    assert arena.view(first, 1)[0] == ord("x")  # its page was not taken away


def test_trim_gives_pages_back_oldest_first() -> None:
    arena, size = Arena(32 * MI), extent_bytes(MI)
    starts = [arena.allocate(MI, size, 8 * size) for _ in range(8)]
    for start in starts:
        assert start is not None
        arena.view(start, MI)[:] = b"x" * MI
    assert arena.resident_bytes() == 8 * size
    for start in starts:
        assert start is not None
        arena.free(start)
    assert arena.resident_bytes() == 8 * size
    assert arena.trim(6 * size) == 2 * size
    assert arena.resident_bytes() == 6 * size
    newest = starts[-1]
    assert newest is not None
    assert arena.view(newest, 1)[0] == ord("x")
    assert arena.trim(0, at_most_bytes=2 * size) == 2 * size
    assert arena.trim(0) == 4 * size
    assert arena.resident_bytes() == 0
    arena.check()
    assert arena._cold.ranges() == [(0, extent_bytes(32 * MI) * 32)]  # all neighbours merged


def test_mixed_sizes_for_long_never_exceed_the_limit() -> None:
    rng, arena, limit = random.Random(7), Arena(64 * MI), 48 * MI
    held: list[int] = []
    for _ in range(1200):
        length = int(2 ** rng.uniform(12, 22))
        while arena.used_bytes + extent_bytes(length) > limit:
            arena.free(held.pop(rng.randrange(len(held))))
        start = arena.allocate(length, extent_bytes(length), limit)
        assert start is not None
        held.append(start)
        arena.view(start, length)[::PAGE_BYTES] = b"y" * len(range(0, length, PAGE_BYTES))
        assert arena.resident_bytes() <= limit
    arena.check()


def test_addresses_run_out_without_an_error() -> None:
    arena = Arena(PAGE_BYTES)
    assert arena.allocate(PAGE_BYTES * 33, PAGE_BYTES, PAGE_BYTES * 33) is None
    arena.check()


def test_a_wrong_free_is_noticed() -> None:
    with pytest.raises(KeyError):
        Arena(MI).free(4096)
