"""The scheduler's side, asked as vLLM 0.32 asks: at each step, until a request has blocks."""

import importlib
import sys
import types
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest

from kvtide_cachenode.engines import request_state
from kvtide_cachenode.engines.lookup import Found
from kvtide_cachenode.engines.namespace import AdapterVersion, Head
from kvtide_cachenode.engines.tally import Tally

BLOCK_TOKENS = 16
PATIENCE_S = 0.25
BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base"


@pytest.fixture
def scheduler_module(monkeypatch):
    """Ours, on a vLLM of which there is only the class that its metadata extends."""
    parts = BASE.split(".")
    for count in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), types.ModuleType("vllm"))
    sys.modules[BASE].KVConnectorMetadata = type("KVConnectorMetadata", (), {})
    ours = [f"kvtide_cachenode.engines.vllm.{name}" for name in ("metadata", "scheduler")]
    for name in ours:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(ours[-1])
    for name in ours:
        sys.modules.pop(name, None)


@dataclass
class Request:
    """A prompt, by vLLM's names."""

    request_id: str
    blocks: int
    lora_request: object = None
    num_preemptions: int = 0
    num_computed_tokens: int = 0
    skip_reading_prefix_cache: bool = False
    block_hashes: list = field(init=False)

    def __post_init__(self):
        self.block_hashes = [bytes([at]) * 32 for at in range(self.blocks)]


class Blocks:
    def __init__(self, block_ids):
        self._block_ids = block_ids

    def get_block_ids(self, request_id=None):
        return (self._block_ids,) if request_id is None else (self._block_ids[request_id],)


class Heads:
    """A namespace whose answers the test gives."""

    def __init__(self):
        self.now = done(Head(b"kvt:one:l"))

    def head(self, lora):  # noqa: ARG002 - one answer for all
        return self.now

    def renew(self):
        self.now = done(Head(b"kvt:renewed:l", is_replaced=True))

    def close(self):
        pass


class Lookups:
    """Look-ups that the test ends, and what each was asked for."""

    def __init__(self):
        self.started = []

    def start(self, names, timeout_s):
        self.started.append((names, timeout_s, Future()))
        return self.started[-1][2]

    def end(self, blocks, why="complete", took_s=0.01):
        self.started[-1][2].set_result(Found(blocks, why, took_s))

    def close(self):
        pass


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def monotonic(self):
        return self.now_s


def done(value):
    future = Future()
    future.set_result(value)
    return future


class Engine:
    """vLLM around one scheduler's side."""

    def __init__(self, module):
        self.heads, self.lookups, self.tally = Heads(), Lookups(), Tally()
        self.side = module.SchedulerSide(
            self.heads, self.lookups, None, self.tally, BLOCK_TOKENS, BLOCK_TOKENS, 0, PATIENCE_S
        )

    def come(self, name, blocks, **more):
        request = Request(name, blocks, **more)
        self.side.add(request)
        return request

    def ask(self, request, cached_blocks=0, tail=0):
        """Blocks found behind the cached ones, None while that is not known."""
        tokens = self.side.matched_tokens(request, cached_blocks * BLOCK_TOKENS + tail)
        return None if tokens is None else tokens // BLOCK_TOKENS

    def admit(self, request, block_ids, found=0):
        self.side.allocated(request, Blocks(block_ids), found * BLOCK_TOKENS)

    def step(self, request, block_ids, computed, scheduled):
        """The keys stored and the loads begun, by their blocks."""
        output = types.SimpleNamespace(
            total_num_scheduled_tokens=scheduled,
            scheduled_new_reqs=[
                types.SimpleNamespace(req_id=request.request_id, num_computed_tokens=computed)
            ],
            scheduled_cached_reqs=types.SimpleNamespace(req_ids=[], num_computed_tokens=[]),
            num_scheduled_tokens={request.request_id: scheduled},
            kv_connector_block_state=Blocks({request.request_id: block_ids}),
        )
        return self.side.step(output)

    def serve(self, request, block_ids, cached_blocks=0):
        """Admit and compute all of it; heads and block ids of what is stored."""
        while self.ask(request, cached_blocks) is None:
            self.lookups.end(0)
        self.admit(request, block_ids)
        computed = cached_blocks * BLOCK_TOKENS
        metadata = self.step(request, block_ids, computed, len(block_ids) * BLOCK_TOKENS - computed)
        return [(store.name.head, store.block_id) for store in metadata.stores]


@pytest.fixture
def engine(scheduler_module, monkeypatch):
    engine = Engine(scheduler_module)
    engine.clock = Clock()
    monkeypatch.setattr(request_state, "time", engine.clock)
    monkeypatch.setattr(scheduler_module, "time", engine.clock)
    return engine


def test_a_request_that_waits_for_blocks_is_counted_once(engine):
    request = engine.come("r", 8)
    assert engine.ask(request) is None
    engine.lookups.end(5, took_s=0.01)
    for _ in range(47):
        engine.clock.now_s += 0.5
        assert engine.ask(request) == 5
    assert engine.tally.take() == {}
    engine.admit(request, list(range(8)), 5)
    assert engine.tally.take() == {
        "lookups": 1,
        "lookup_seconds": 0.01,
        "lookup_timeouts": 0,
        "lookup_node_down": 0,
    }
    engine.admit(request, list(range(8)))  # when it has loaded
    assert engine.tally.take() == {}
    assert len(engine.lookups.started) == 1


@pytest.mark.parametrize(
    ("why", "counter"), [("timeout", "lookup_timeouts"), ("node_down", "lookup_node_down")]
)
def test_the_reason_for_finding_nothing_is_counted(engine, why, counter):
    request = engine.come("r", 8)
    assert engine.ask(request) is None
    engine.lookups.end(2, why, PATIENCE_S)
    assert engine.ask(request) == 2
    engine.admit(request, list(range(8)), 2)
    counted = engine.tally.take()
    assert (counted["lookups"], counted[counter], counted["lookup_seconds"]) == (1, 1, PATIENCE_S)


def test_who_never_answers_is_waited_for_once(engine):
    request = engine.come("r", 8)
    assert engine.ask(request) is None
    engine.clock.now_s += PATIENCE_S
    assert engine.ask(request) == 0
    # Whatever vLLM asks later, the time is up.
    assert [engine.ask(request, cached) for cached in (3, 1, 0)] == [0, 0, 0]
    engine.admit(request, list(range(8)))
    assert engine.tally.take()["lookup_timeouts"] == 1
    assert len(engine.lookups.started) == 1


def test_a_prefix_that_grows_at_each_step_keeps_the_look_up_and_its_clock(engine):
    request = engine.come("r", 20)
    cached = 0
    while engine.ask(request, cached) is None:
        cached += 1
        engine.clock.now_s += 0.05
        assert cached < 10, "it is asked anew and anew"
    assert engine.clock.now_s - 100.0 <= PATIENCE_S + 0.05
    assert len(engine.lookups.started) == 1


def test_what_was_found_is_kept_while_the_prefix_grows(engine):
    request = engine.come("r", 20)
    assert engine.ask(request, 2) is None
    engine.lookups.end(10)
    assert [engine.ask(request, cached) for cached in (2, 5, 12, 15)] == [10, 7, 0, 0]
    assert len(engine.lookups.started) == 1


def test_a_prefix_that_vllm_drops_is_looked_up_within_what_is_left(engine):
    request = engine.come("r", 20)
    assert engine.ask(request, 5) is None
    engine.lookups.end(3, took_s=0.1)
    assert engine.ask(request, 5) == 3
    engine.clock.now_s += 60.0  # in the queue: nobody waits for a node
    assert engine.ask(request, 0) is None
    names, timeout_s, _ = engine.lookups.started[-1]
    assert (len(names), timeout_s) == (20, pytest.approx(0.15))
    engine.lookups.end(8, took_s=0.02)
    assert engine.ask(request, 0) == 8
    engine.admit(request, list(range(20)), 8)
    counted = engine.tally.take()
    assert (counted["lookups"], counted["lookup_seconds"]) == (1, pytest.approx(0.12))


def test_what_needs_no_look_up_is_admitted_at_once(engine):
    whole = engine.come("whole", 4)
    assert engine.ask(whole, 4) == 0
    assert engine.ask(engine.come("scored", 4, skip_reading_prefix_cache=True)) == 0
    engine.admit(whole, [0, 1, 2, 3])
    assert engine.lookups.started == []
    assert engine.tally.take() == {}


def test_a_preempted_request_is_looked_up_again(engine):
    request = engine.come("r", 6)
    assert engine.ask(request) is None
    engine.lookups.end(0)
    assert engine.ask(request) == 0
    engine.admit(request, list(range(6)))
    request.num_preemptions = 1
    assert engine.ask(request) is None
    engine.lookups.end(6)
    assert engine.ask(request) == 6


def test_an_adapter_that_is_not_known_yet_is_waited_for_and_then_stored_whole(engine):
    engine.heads.now = pending = Future()
    request = engine.come("r", 4)
    assert engine.ask(request) is None
    engine.clock.now_s += PATIENCE_S
    assert engine.ask(request) == 0  # it goes on, and shares nothing
    engine.admit(request, [7, 8, 9, 10])
    assert engine.step(request, [7, 8, 9, 10], 0, 2 * BLOCK_TOKENS).stores == []
    version = AdapterVersion("/adapter", "digest")
    pending.set_result(Head(b"kvt:lora:l", adapter=version))
    stores = engine.step(request, [7, 8, 9, 10], 2 * BLOCK_TOKENS, 2 * BLOCK_TOKENS).stores
    assert [store.block_id for store in stores] == [7, 8, 9, 10]
    assert {store.adapter for store in stores} == {version}
    assert engine.lookups.started == []


@pytest.mark.parametrize("unknown", [done(None), Future()])
def test_an_adapter_that_cannot_be_known_is_neither_loaded_nor_stored(engine, unknown):
    if not unknown.done():
        unknown.set_exception(RuntimeError("an accident"))
    engine.heads.now = unknown
    assert engine.serve(engine.come("r", 4), [1, 2, 3, 4]) == []
    assert engine.lookups.started == []


def replaced(name):
    return done(Head(name, is_replaced=True, adapter=AdapterVersion("/adapter", name.decode())))


def test_what_is_computed_on_cached_blocks_of_an_older_adapter_is_not_stored(engine):
    """VLLM's hashes tell adapters by name and path: its own cache gives the old one's blocks to the new."""
    engine.heads.now = done(Head(b"kvt:old:l"))
    assert len(engine.serve(engine.come("old", 3), [1, 2, 3])) == 3
    engine.heads.now = replaced(b"kvt:new:l")
    assert engine.serve(engine.come("mixed", 5), [1, 2, 3, 4, 5], cached_blocks=3) == []
    # A part of a cached block counts, too.
    part = engine.come("part", 2)
    assert engine.ask(part, 0, tail=7) is None
    engine.lookups.end(0)
    assert engine.ask(part, 0, tail=7) == 0
    engine.admit(part, [6, 7])
    assert engine.step(part, [6, 7], 7, 2 * BLOCK_TOKENS - 7).stores == []
    # On its own blocks it goes on.
    assert engine.serve(engine.come("new", 2), [8, 9]) == [(b"kvt:new:l", 8), (b"kvt:new:l", 9)]
    assert engine.serve(engine.come("next", 4), [8, 9, 10, 11], cached_blocks=2) == [
        (b"kvt:new:l", 10),
        (b"kvt:new:l", 11),
    ]
    # … but not on those that something else was computed into since.
    engine.heads.now = done(Head(b"kvt:other:l"))
    engine.serve(engine.come("other", 1), [9])
    engine.heads.now = replaced(b"kvt:new:l")
    assert engine.serve(engine.come("last", 3), [8, 9, 12], cached_blocks=2) == []


def test_what_was_loaded_under_the_new_adapter_can_be_gone_on_from(engine):
    engine.heads.now = replaced(b"kvt:new:l")
    request = engine.come("loads", 3)
    assert engine.ask(request) is None
    engine.lookups.end(2)
    assert engine.ask(request) == 2
    engine.admit(request, [1, 2, 3], 2)
    request.num_computed_tokens = 2 * BLOCK_TOKENS
    engine.admit(request, [1, 2, 3])
    metadata = engine.step(request, [1, 2, 3], 2 * BLOCK_TOKENS, BLOCK_TOKENS)
    assert [load.block_ids for load in metadata.loads] == [[1, 2]]
    assert [store.block_id for store in metadata.stores] == [3]


def test_new_weights_reach_requests_that_came_before_them(engine):
    waiting, running = engine.come("waiting", 3), engine.come("running", 6)
    assert engine.ask(waiting) is None
    old = engine.lookups.started[-1][2]
    assert engine.ask(running) is None
    engine.lookups.end(0)
    assert engine.ask(running) == 0
    engine.admit(running, [1, 2, 3, 4, 5, 6])
    assert len(engine.step(running, [1, 2, 3, 4, 5, 6], 0, 3 * BLOCK_TOKENS).stores) == 3
    engine.side.renew()
    # Its first half is of the old weights: stored under neither name.
    assert engine.step(running, [1, 2, 3, 4, 5, 6], 3 * BLOCK_TOKENS, 3 * BLOCK_TOKENS).stores == []
    old.set_result(Found(3, "complete", 0.01))  # of the old weights: nobody takes it
    assert engine.ask(waiting) is None
    assert engine.lookups.started[-1][0][0].head == b"kvt:renewed:l"
    # Preempted and computed anew it is of the new ones.
    running.num_preemptions = 1
    assert engine.serve(running, [11, 12, 13, 14, 15, 16]) == [
        (b"kvt:renewed:l", block) for block in range(11, 17)
    ]
