"""KV events become requests: against a model of an engine's prefix cache, and cases worked by hand."""

import random
from collections import OrderedDict
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_operator.workload.kv_events import requests as rebuilt
from kvtide_operator.workload.kv_events.decode import Batch, EventError, Removed, Stored, decode
from kvtide_operator.workload.kv_events.order import Order
from kvtide_operator.workload.kv_events.requests import Requests

TOKENS = 16


def play(batches, first=0):
    """The requests, in order of arrival, and the counts."""
    done = []
    builder = Requests(done.append)
    for number, batch in enumerate(batches, first):
        builder.add(number, batch)
    builder.end()
    done.sort(key=lambda request: request.began_s)
    return done, builder.told


def stored(parent, *blocks, tokens=TOKENS):
    return Stored(parent, list(blocks), tokens)


class PrefixCache:
    """What vLLM stores and reports, step by step, for prompts of whole blocks; an LRU of blocks."""

    def __init__(self, capacity, is_reporting):
        self.kept = OrderedDict()
        self.capacity = capacity
        self.is_reporting = is_reporting
        self.batches = []
        self.removed = []
        self.hits = 0

    def serve(self, at_s, chain, chunk, answer):
        """One request alone in the engine: prompt in chunks, then blocks of its answer."""
        hit = 0
        while hit < len(chain) and chain[hit] in self.kept:
            hit += 1
        self.hits += hit
        events, self.removed = self.removed, []
        if hit and self.is_reporting:
            events.append(stored(None, *chain[:hit]))
        for at in range(hit, len(chain), chunk):
            events.append(stored(chain[at - 1] if at else None, *chain[at : at + chunk]))
            self.step(at_s, events)
            at_s, events = at_s + 0.1, []
        if events:
            self.step(at_s, events)
        for parent, block in zip([chain[-1], *answer], answer, strict=False):
            at_s += 1.0
            self.step(at_s, [stored(parent, block)])
        for block in [*chain, *answer]:
            self.kept[block] = None
            self.kept.move_to_end(block)
        while len(self.kept) > self.capacity:
            self.removed.append(Removed([self.kept.popitem(last=False)[0]]))
        return hit

    def step(self, at_s, events):
        self.batches.append(Batch(at_s, events))


def conversations(seed, count):
    """Prompts as chains of blocks: turns that go on from an earlier one's prompt and answer, and new ones."""
    chosen = random.Random(seed)
    fresh = iter(range(1, 1 << 30))
    histories = []
    for number in range(count):
        base = chosen.choice(histories) if histories and chosen.random() < 0.6 else []
        chain = base[: chosen.randint(0, len(base))] + [next(fresh) for _ in range(chosen.randint(0, 6))]
        if not chain:
            chain = [next(fresh)]
        answer = [next(fresh) for _ in range(chosen.randint(0, 3))]
        histories.append(chain + answer)
        yield 100.0 * number, chain, answer


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 60), st.integers(2, 8))
def test_with_full_reports_every_request_is_told_exactly(seed, capacity, chunk):
    cache = PrefixCache(capacity, is_reporting=True)
    expected = []
    for at_s, chain, answer in conversations(seed, 40):
        hit = cache.serve(at_s, chain, chunk, answer)
        # The last part of a prompt in several parts may be one block, which is taken for generated tokens.
        is_odd = len(chain) - hit > chunk and (len(chain) - hit) % chunk == 1
        expected.append((at_s, chain[:-1] if is_odd else chain, len(answer) + is_odd))
    got, told = play(cache.batches)
    assert [(request.began_s, request.blocks, request.output_blocks) for request in got] == expected
    assert (told.requests, told.rebuilt, told.orphans) == (40, 0, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 60))
def test_without_reports_only_what_was_reused_whole_is_missing(seed, capacity):
    cache = PrefixCache(capacity, is_reporting=False)
    expected, invisible = [], 0
    for at_s, chain, _ in conversations(seed, 40):
        hit = cache.serve(at_s, chain, 64, [])
        if hit < len(chain):
            expected.append((at_s, chain))
        else:
            invisible += len(chain)
    got, told = play(cache.batches)
    assert [(request.began_s, request.blocks) for request in got] == expected
    assert told.orphans == 0
    assert cache.hits * TOKENS - told.reused_tokens == invisible * TOKENS


def test_a_request_that_waits_is_one_and_two_equal_ones_are_two():
    known = Batch(0.0, [stored(None, 1, 2, 3)])
    report = stored(None, 1, 2, 3)
    waits = [Batch(60 + at / 10, [report]) for at in range(20)]
    runs = Batch(62.0, [report, stored(3, 4, 5)])
    got, _ = play([known, *waits, runs])
    assert [request.blocks for request in got] == [[1, 2, 3], [1, 2, 3, 4, 5]]
    # The same step reports two requests; some time later there is another.
    got, _ = play([known, Batch(60.0, [report, report]), Batch(61.5, [report])])
    assert [request.began_s for request in got] == [0.0, 60.0, 60.0, 61.5]


def test_a_prompt_computed_while_an_equal_one_is_under_way_is_another_request():
    # Both end in block 3; the second goes on with 4 and 5 and the first generates 6.
    batches = [
        Batch(0.0, [stored(None, 1, 2, 3)]),
        Batch(0.1, [stored(None, 1, 2, 3), stored(3, 4, 5)]),
        Batch(0.9, [stored(3, 6)]),
    ]
    got, _ = play(batches)
    assert [(request.blocks, request.output_blocks) for request in got] == [
        ([1, 2, 3], 1),
        ([1, 2, 3, 4, 5], 0),
    ]


def pages(parent, *blocks):
    """As SGLang tells of them: an event each."""
    return [stored(before, block) for before, block in zip([parent, *blocks], blocks, strict=False)]


@pytest.mark.parametrize("answer_s", [0.2, 20.0, 50.0])
def test_an_answer_that_is_told_when_it_ends_is_an_answer(answer_s):
    other = [Batch(1.0 + answer_s * at / 8, pages(None, 100 + at)) for at in range(7)]
    got, told = play(
        [
            Batch(1.0, pages(None, *range(1, 11))),
            *other,
            Batch(1.0 + answer_s, pages(10, *range(11, 16))),
            Batch(2.0 + answer_s, pages(15, 16, 17, 18)),  # the next turn
        ]
    )
    of_chain = [(request.blocks, request.output_blocks) for request in got if request.blocks[0] == 1]
    assert of_chain == [([*range(1, 11)], 5), ([*range(1, 19)], 0)]
    assert (told.requests, told.orphans) == (9, 0)


def test_parts_of_a_prompt_that_come_step_by_step_are_one_prompt():
    steps = [
        Batch(at * 0.05, pages(at * 128 or None, *range(at * 128 + 1, at * 128 + 129))) for at in range(4)
    ]
    got, _ = play([*steps, Batch(9.0, pages(512, 513))])
    assert [(len(request.blocks), request.output_blocks) for request in got] == [(512, 1)]


@pytest.mark.parametrize("tokens", [1, 16])
def test_conversations_of_an_engine_that_tells_pages_are_told_within_2_percent(tokens):
    chosen, batches, expected = random.Random(tokens), [], []
    fresh, histories, seen, at_s = iter(range(1, 1 << 30)), [], set(), 0.0
    for _ in range(200):
        base = chosen.choice(histories) if histories and chosen.random() < 0.6 else []
        chain = base + [next(fresh) for _ in range(chosen.randint(1, 40))]
        answer = [next(fresh) for _ in range(chosen.randint(0, 20))]
        histories.append(chain + answer)
        at_s += chosen.uniform(0.1, 3.0)
        for first, blocks, when_s in (
            (0, chain, at_s),
            (len(chain), chain + answer, at_s + len(answer) * tokens * 0.02 + 0.01),
        ):
            new = [at for at in range(first, len(blocks)) if blocks[at] not in seen]
            if new:
                events = pages(blocks[new[0] - 1] if new[0] else None, *blocks[new[0] :])
                batches.append((when_s, events))
            seen.update(blocks)
        at_s += len(answer) * tokens * 0.02 + 0.01
        expected.append(chain)
    got, told = play([
        Batch(when_s, [Stored(e.parent, e.blocks, tokens) for e in events]) for when_s, events in batches
    ])  # fmt: skip
    assert len(got) == pytest.approx(len(expected), rel=0.02)
    blocks = sum(len(request.blocks) for request in got)
    assert blocks == pytest.approx(sum(map(len, expected)), rel=0.02)
    unique = len({block for chain in expected for block in chain})
    assert 1 - len({b for r in got for b in r.blocks}) / blocks == pytest.approx(
        1 - unique / sum(map(len, expected)), rel=0.02
    )
    assert told.orphans == 0


def test_what_began_before_the_recording_is_counted_and_left_out():
    got, told = play([Batch(0.0, [stored(7, 8)]), Batch(1.0, [stored(8, 9)]), Batch(2.0, [stored(None, 1)])])
    assert [request.blocks for request in got] == [[1]]
    assert told.orphans == 2


def test_blocks_of_another_size_tell_nothing():
    got, told = play([Batch(0.0, [stored(None, 1, 2)]), Batch(0.1, [stored(2, 3, tokens=4)])])
    assert [request.blocks for request in got] == [[1, 2]]
    assert told.other_block_sizes == 1


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(rebuilt, "MAX_KNOWN_BLOCKS", 50)
    monkeypatch.setattr(rebuilt, "MAX_OPEN_REQUESTS", 7)
    done = []
    builder = Requests(done.append)
    for number in range(200):
        builder.add(number, Batch(number / 100, [stored(None, *range(number * 10, number * 10 + 10))]))
    assert len(done) == 193
    assert len(builder._parents) == 50
    builder.add(200, Batch(500.0, []))  # all have been idle
    assert len(done) == 200
    builder.add(201, Batch(501.0, [stored(5, 6)]))  # forgotten
    assert builder.told.orphans == 1


# --- payloads ---------------------------------------------------------------------------------------------


def map_event(kind="BlockStored", **changes):
    event = {"type": kind, "block_hashes": [bytes(range(32))], "parent_block_hash": None, "token_ids": [5]}
    return event | {"block_size": 16, "lora_id": None, "medium": "GPU", "lora_name": None} | changes


def pack(*events, at_s=1.5, rank=0):
    return msgspec.msgpack.encode([at_s, list(events), rank])


def test_both_layouts_and_both_kinds_of_hash_are_read():
    by_name = map_event(parent_block_hash=b"\xff" * 32, later_field={"any": 1}, group_idx=0)
    by_place = ["BlockStored", [-1, 2**63], 5 << 11, [1], 32, None, "GPU", None, "more"]
    short = ["BlockStored", [1 << 11], None, [1], 32]
    gone = ["BlockRemoved", [1 << 11], "GPU"]
    batch = decode(pack(by_name, by_place, short, gone, ["BlockRemoved", [0], "CPU"], ["AllBlocksCleared"]))
    # As the connector's own trace names it: the last eight bytes without the lowest eleven bits.
    first = int.from_bytes(bytes(range(24, 32)), "big") >> 11
    assert batch == Batch(
        1.5,
        [
            Stored(2**53 - 1, [first], 16),
            Stored(5, [2**53 - 1, 2**52], 32),
            Stored(None, [1], 32),
            Removed([1]),
            Removed(None),
        ],
    )


def test_removals_other_tiers_and_other_groups_are_no_requests():
    events = [
        map_event("BlockRemoved"),
        map_event("BlockRemoved", medium="STORAGE"),
        map_event(medium="CPU"),
        map_event(medium="CPU_PINNED"),
        map_event(medium="DISK"),
        map_event(group_idx=1),
        map_event(block_hashes=[]),
        map_event(medium=None),
    ]
    assert [type(event) for event in decode(pack(*events)).events] == [Removed, Stored]


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"\xc1", "no MessagePack"),
        (msgspec.msgpack.encode({"ts": 1}), "no batch of events"),
        (msgspec.msgpack.encode([1.0]), "no batch of events"),
        (pack(at_s="now"), "'now' is no Unix time"),
        (pack(at_s=float("nan")), "'nan' is no Unix time"),
        (pack(7), "an event is a int"),
        (pack(map_event(block_hashes=None)), "no array"),
        (pack(map_event(block_size=0)), "'0' tokens in a block"),
        (pack(map_event(block_hashes=["x"])), "a block's hash is a str"),
        (pack(*[0] * 65_537), "65,537 events in one batch"),
    ],
)
def test_what_is_no_batch_is_refused(payload, sentence):
    with pytest.raises(EventError, match=sentence):
        decode(payload)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=6)
    | st.dictionaries(st.sampled_from(list(map_event())) | st.text(), inner, max_size=8),
    max_leaves=20,
).map(lambda tree: msgspec.msgpack.encode([1.0, [tree, map_event()]])))  # fmt: skip
def test_any_bytes_are_a_batch_or_an_error(payload):
    with suppress(EventError):
        Requests(lambda _: None).add(0, decode(payload))


# --- order ------------------------------------------------------------------------------------------------


def payload_of(number, at_s=None):
    return pack(map_event(), at_s=float(number) if at_s is None else at_s)


class Line:
    """An order over a publisher that keeps some batches."""

    def __init__(self, kept=()):
        self.kept = list(kept)
        self.said = []
        self.order = Order(
            lambda first: [(at, payload_of(at)) for at in self.kept if at >= first], self.said.append
        )

    def add(self, number, at_s=None):
        return [at if batch else (at,) for at, batch in self.order.add(number, payload_of(number, at_s))]


def test_gaps_are_closed_by_replay():
    line = Line(kept=range(3, 9))
    assert line.add(3) == [3, 4, 5, 6, 7, 8]  # what the publisher already had when we came
    assert line.add(5) == []
    line.kept = range(9, 14)
    assert line.add(12) == [9, 10, 11, 12, 13]
    assert line.add(13) == []
    assert line.said == ["3 batches of events did not arrive; 3 of them were sent again, 0 are lost"]
    assert (line.order.received.lost, line.order.received.batches) == (0, 11)


def test_what_a_replay_no_longer_has_is_lost_and_said():
    line = Line()
    assert line.add(0) == [0]
    line.kept = [6, 7]
    assert line.add(9) == [(1,), 6, 7, (8,), 9]
    assert line.said == ["8 batches of events did not arrive; 2 of them were sent again, 6 are lost"]
    assert line.order.received.lost == 6


def test_a_restarted_engine_begins_anew():
    line = Line()
    assert line.add(0, at_s=10.0) + line.add(1, at_s=11.0) == [0, 1]
    assert line.add(0, at_s=20.0) == [(2,), 0]
    assert line.add(1, at_s=21.0) == [1]
    assert line.order.received.restarts == 1
    assert line.said == ["the engine has restarted: its batches are numbered from 0 again"]


def test_a_malformed_batch_is_left_out_and_said():
    line = Line()
    assert list(line.order.add(4, b"\xc1")) == []
    assert line.add(5) == [5]
    assert line.order.received.malformed == 1
    assert "batch 4 is left out" in line.said[0]
