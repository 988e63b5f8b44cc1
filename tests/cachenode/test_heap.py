"""Giving memory back takes a bounded share of the time, and what does not go back is charged."""

from kvtide_cachenode.contract.sizing import PROCESS_BYTES
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.process.heap import FRUITLESS_FACTOR, PAUSE_FACTOR, Heap
from kvtide_cachenode.store import Store

MI = 1 << 20


class Machine:
    """A process whose trims take ``took_s`` and bring ``gain_bytes``."""

    def __init__(self, resident_bytes: int, took_s: float, gain_bytes: int) -> None:
        self.resident_bytes, self.took_s, self.gain_bytes = resident_bytes, took_s, gain_bytes
        self.now_s, self.trims = 1.0, 0
        self.heap = Heap(self.trim, lambda: self.resident_bytes, lambda: self.now_s)

    def trim(self) -> None:
        self.trims += 1
        self.now_s += self.took_s
        self.resident_bytes -= self.gain_bytes


def test_a_fruitless_trim_is_not_soon_tried_again() -> None:
    for gain_bytes, factor in ((0, FRUITLESS_FACTOR), (200 * MI, PAUSE_FACTOR)):
        machine = Machine(1000 * MI, 0.125, gain_bytes)
        assert machine.heap.give_back()
        machine.now_s += 0.125 * factor - 0.01
        assert not machine.heap.give_back()
        machine.now_s += 0.02
        assert machine.heap.give_back()
        assert machine.trims == 2


def test_what_does_not_go_back_makes_the_tier_smaller() -> None:
    store = Store(64 * MI, 64 * MI, make_policy("lru"))
    machine = Machine(PROCESS_BYTES + 40 * MI, 0.001, 10 * MI)
    store.watch_memory(machine.heap)
    assert machine.trims == 1
    assert 30 * MI <= store.used_bytes < 40 * MI
    for number in range(100):
        store.put(b"%d" % number, bytes(MI))
        store.check()
    assert store.used_bytes <= store.capacity_bytes
    machine.resident_bytes = 10 * MI
    store.count_memory()
    assert store.used_bytes < 40 * MI
    store.check()


def test_a_process_within_its_share_is_left_alone() -> None:
    store = Store(64 * MI, 64 * MI, make_policy("lru"))
    machine = Machine(48 * MI, 0.001, 0)
    store.watch_memory(machine.heap)
    store.count_memory()
    assert machine.trims == 0
    assert store.used_bytes == 0
