"""The keys of a node: a set, and iterations that miss nothing that stays."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvtide_cachenode.store.keys import BUCKET_KEYS, BUCKETS_PER_KEY, Keys

numbers = st.integers(0, 2000)


class KeysAgainstModel(RuleBasedStateMachine):
    """Several iterations at once, among them some that begin in a large set and end in a small one."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = Keys()
        self.model: set[bytes] = set()
        self.iterations: list[tuple[int, set[bytes], set[bytes]]] = []  # cursor, what stayed, what was met

    @rule(first=numbers, count=st.integers(1, 900))
    def add(self, first: int, count: int) -> None:
        for key in {b"%d" % number for number in range(first, first + count)} - self.model:
            self.keys.add(key)
            self.model.add(key)

    @rule(first=numbers, count=st.integers(1, 2900))
    def remove(self, first: int, count: int) -> None:
        gone = {b"%d" % number for number in range(first, first + count)} & self.model
        for key in gone:
            self.keys.remove(key)
        self.model -= gone
        for _, stayed, _ in self.iterations:
            stayed -= gone

    @rule(count=st.integers(1, 500))
    @precondition(lambda self: len(self.iterations) < 3)
    def begin(self, count: int) -> None:
        self.go_on((0, set(self.model), set()), count)

    @rule(count=st.integers(1, 500))
    @precondition(lambda self: self.iterations)
    def next_page(self, count: int) -> None:
        self.go_on(self.iterations.pop(0), count)

    def go_on(self, iteration: tuple[int, set[bytes], set[bytes]], count: int) -> None:
        cursor, stayed, met = iteration
        cursor, page = self.keys.page(cursor, count)
        assert set(page) <= self.model
        assert len(page) < count + BUCKET_KEYS
        met |= set(page)
        if cursor:
            self.iterations.append((cursor, stayed, met))
        else:
            assert stayed <= met, "an iteration missed a key that was there all the time"

    @rule(cursor=st.integers(0, 2**63))
    def any_cursor_is_answered(self, cursor: int) -> None:
        self.keys.page(cursor, 10)

    @invariant()
    def is_the_set(self) -> None:
        self.keys.check()
        assert len(self.keys) == len(self.model)

    def teardown(self) -> None:
        listed = [key for page in self.keys.pages(100) for key in page]
        assert sorted(listed) == sorted(self.model)
        while self.iterations:
            self.next_page(100)


KeysAgainstModel.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
test_keys_against_model = KeysAgainstModel.TestCase


def test_a_call_looks_at_a_bounded_number_of_buckets() -> None:
    keys = Keys()
    for number in range(100_000):
        keys.add(b"%d" % number)
    for number in range(1, 100_000):
        keys.remove(b"%d" % number)
    calls, cursor, found = 0, 0, []
    while cursor or not calls:
        cursor, page = keys.page(cursor, 10)
        found += page
        calls += 1
    assert found == [b"0"]
    assert calls <= 100_000 / BUCKET_KEYS / (10 * BUCKETS_PER_KEY) * 4
