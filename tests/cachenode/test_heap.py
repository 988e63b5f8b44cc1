"""Memory is given back where that may bring something; what does not go back is charged, and room is made."""

from kvtide_cachenode.contract.sizing import PROCESS_BYTES
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.process.heap import Heap
from kvtide_cachenode.store import Store

MI = 1 << 20


class Machine:
    """A process whose trims bring ``gain_bytes``."""

    def __init__(self, resident_bytes: int, gain_bytes: int) -> None:
        self.resident_bytes, self.gain_bytes = resident_bytes, gain_bytes
        self.trims = 0
        self.heap = Heap(self.trim, lambda: self.resident_bytes)

    def trim(self) -> None:
        self.trims += 1
        self.resident_bytes -= self.gain_bytes


def test_what_did_not_go_back_is_not_tried_for_again_before_there_is_more() -> None:
    machine = Machine(1000 * MI, 0)
    assert machine.heap.give_back(40 * MI, MI) == 40 * MI
    for surplus in (40, 49, 20, 24):
        machine.heap.give_back(surplus * MI, MI)
        assert machine.trims == 1
    machine.gain_bytes = 6 * MI
    assert machine.heap.give_back(26 * MI, MI) == 20 * MI
    assert machine.trims == 2


def test_however_little_a_trim_has_brought_what_is_freed_later_goes_back_at_once() -> None:
    machine = Machine(1000 * MI, 0)
    machine.heap.give_back(8 * MI, MI)
    machine.gain_bytes = 4 * MI
    for _ in range(100):
        assert machine.heap.give_back(12 * MI, MI) == 8 * MI
    assert machine.trims == 101


def test_what_does_not_go_back_makes_the_tier_smaller() -> None:
    store = Store(64 * MI, 64 * MI, make_policy("lru"))
    machine = Machine(PROCESS_BYTES + 40 * MI, 10 * MI)
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


def test_what_was_charged_beside_makes_way_with_as_many_bytes_of_values_as_it_has() -> None:
    store = Store(8 * MI, 8 * MI, make_policy("lru"))
    numbers = iter(range(1_000_000))
    for _ in range(20_000):
        store.put(b"%d" % next(numbers), b"small")
    before = store.used_bytes
    store.charge_beside("something", MI)
    assert store.used_bytes == before + MI > store.capacity_bytes
    charge = store.charge_of(b"19999")
    assert charge is not None
    for _ in range(MI // charge + 1):
        store.put(b"%d" % next(numbers), b"small")
    assert store.used_bytes <= store.capacity_bytes
    store.charge_beside("something", 2 * MI)
    store.put(b"large", bytes(MI))
    assert store.used_bytes <= store.capacity_bytes
    store.check()


def test_a_process_within_its_share_is_left_alone() -> None:
    store = Store(64 * MI, 64 * MI, make_policy("lru"))
    machine = Machine(48 * MI, 0)
    store.watch_memory(machine.heap)
    store.count_memory()
    assert machine.trims == 0
    assert store.used_bytes == 0
