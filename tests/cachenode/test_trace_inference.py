"""Requests played on one connection come out of the trace as they were."""

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kvtide_cachenode.access_trace.block_names import block_id, canonical
from kvtide_cachenode.access_trace.client import Client
from kvtide_cachenode.access_trace.inference import Access, Inference
from kvtide_cachenode.access_trace.open_requests import MAX_ALIKE
from kvtide_cachenode.access_trace.request_under_way import LOOSE
from kvtide_cachenode.access_trace.ring import (
    BLOCK_ID_BYTES,
    LINE_BYTES,
    MAX_BYTES,
    MAX_LINES,
    Inferred,
    TraceRing,
)
from kvtide_cachenode.serve import connection, server


def chains(seed: int, count: int) -> list[list[str]]:
    """Requests over a tree of prefixes: three system prompts, sessions that grow by turns."""
    rng, sessions, requests = random.Random(seed), [], []
    for number in range(count):
        if sessions and rng.random() < 0.6:
            session = sessions[rng.randrange(len(sessions))]
        else:
            system = rng.randrange(3)
            session = [f"system-{system}-{i}" for i in range(3)]
            sessions.append(session)
        session.extend(f"b{number}-{i}" for i in range(rng.randrange(1, 5)))
        requests.append(list(session))
    return requests


def play(requests: list[list[str]], style: str, emit: Callable[[Inferred], None], gap_s: float) -> list[int]:
    """What a client of the given style does; returns the blocks each request hit."""
    stored: set[str] = set()
    inference = Client(Inference(emit))
    now_s, all_hits = 1_000_000.0, []

    def access(kind: Access, block: str, hit: bool = False) -> None:
        for suffix in (b"metadata", b"kv_bytes") if kind is not Access.LOOK_UP else (b"metadata",):
            key = b"model@2@0@" + block.encode().hex().encode() + b"@bfloat16" + suffix
            inference.access(kind, (key,), (hit,), now_s)

    for blocks in requests:
        hits = 0
        for block in blocks:
            now_s += 0.001
            hit = block in stored
            if style != "loads only":
                access(Access.LOOK_UP, block, hit)
            if style != "look-ups first":
                access(Access.LOAD, block, hit)
            if not hit:
                break
            hits += 1
        if style == "look-ups first":
            for block in blocks[:hits]:
                now_s += 0.001
                access(Access.LOAD, block, True)
        now_s += 0.5  # prefill
        for block in blocks[hits:]:
            now_s += 0.001
            access(Access.STORE, block)
            stored.add(block)
        now_s += gap_s
        all_hits.append(hits)
    inference.end()
    return all_hits


@pytest.mark.parametrize("gap_s", [0.0, 10.0])
@pytest.mark.parametrize("style", ["look-ups first", "interleaved", "loads only"])
def test_requests_are_reconstructed(style: str, gap_s: float) -> None:
    requests = chains(3, 300)
    seen: list[tuple[list[int], int]] = []
    hits = play(requests, style, lambda line: seen.append((line.blocks, line.hit_blocks)), gap_s)
    ids = {
        block: block_id(b"model@2@7@" + block.encode().hex().encode() + b"@bfloat16kv_bytes")
        for blocks in requests
        for block in blocks
    }
    assert seen == [
        ([ids[block] for block in blocks], hit) for blocks, hit in zip(requests, hits, strict=True)
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Access),
            st.lists(st.integers(0, 9), min_size=1, max_size=6),
            st.booleans(),
            st.floats(0, 100),
        ),
        max_size=60,
    )
)
@settings(max_examples=200, deadline=None)
def test_every_access_is_in_exactly_one_request(
    accesses: list[tuple[Access, list[int], bool, float]],
) -> None:
    requests: list[list[int]] = []
    of_node = Inference(lambda line: requests.append(line.blocks))
    inference = Client(of_node)
    now_s, blocks = 0.0, set()
    for access, numbers, hit, gap_s in accesses:
        now_s += gap_s
        inference.end_idle(now_s)
        keys = [b"key-%d" % number for number in numbers]
        inference.access(access, keys, [hit] * len(keys), now_s)
        blocks.update(map(block_id, keys))
    inference.end()
    assert all(len(request) == len(set(request)) > 0 for request in requests)
    assert {block for request in requests for block in request} == blocks
    assert not of_node._open.holders
    assert not of_node._open.cursors
    assert of_node._open.bytes == 0


def test_a_request_that_waits_for_its_stores_is_kept_a_minute() -> None:
    seen: list[list[int]] = []
    inference = Client(Inference(lambda line: seen.append(line.blocks)))
    inference.access(Access.LOOK_UP, (b"a",), (False,), 100.0)
    inference.end_idle(130.0)
    assert not seen
    inference.access(Access.STORE, (b"a", b"b"), (False, False), 150.0)
    inference.end_idle(154.0)
    assert not seen
    inference.end_idle(156.0)
    assert seen == [[block_id(b"a"), block_id(b"b")]]


@pytest.mark.parametrize(
    ("key", "same"),
    [
        (b"m@2@0@abc@half", b"m@2@1@abc@halfkv_bytes"),
        (b"m@2@0@abc@half@tag%1", b"m@2@1@abc@half@tag%1@17metadata"),
        (b"kvt:m:l:0:r:3:h", b"kvt:m:l:1:r:3:h"),
    ],
)
def test_parts_of_one_block_have_one_name(key: bytes, same: bytes) -> None:
    assert canonical(key) == canonical(same)
    assert 0 <= block_id(key) == block_id(same) < 2**53


@pytest.mark.parametrize(
    ("key", "other"),
    [
        (b"m@2@0@abc@half", b"m@2@0@abd@half"),
        (b"m@2@0@abc@half", b"m@4@0@abc@half"),
        (b"a", b"b"),
        (b"kvt:m:l:0:r:3:h", b"kvt:m:l:0:r:4:h"),
        (b"user@host", b"user@hostmetadata2"),
    ],
)
def test_different_blocks_keep_their_names(key: bytes, other: bytes) -> None:
    assert canonical(key) != canonical(other)


@pytest.mark.parametrize(
    ("key", "tells"),
    [
        (b"kvt:m:l:0-4x1:-:0:h", True),
        (b"kvt:m:l:1-4x1:-:0:h", False),
        (b"m@8@0@abc@half", True),
        (b"m@8@7@abc@half", False),
        (b"m@8@0@abc@halfmetadata", True),
        (b"m@8@0@abc@halfkv_bytes", False),
        (b"m@8@0@abc@half@3@tag%1", False),
        (b"m@08000800@0@abc", True),
        (b"m@08030803@0@abc", False),
        (b"f" * 64 + b"_meta_0_4", True),
        (b"f" * 64 + b"_meta_2_4", False),
        (b"f" * 64 + b"_meta", True),
        (b"user:7", True),
    ],
)
def test_the_first_part_of_a_block_tells_all(key: bytes, tells: bool) -> None:
    seen: list[Inferred] = []
    client = Client(Inference(seen.append))
    client.access(Access.LOOK_UP, [key], [False], 100.0)
    client.access(Access.STORE, [key], [False], 100.1)
    client.end()
    assert len(seen) == tells


class SteadyTime:
    """A clock on which little time passes, however busy the machine is."""

    def __init__(self) -> None:
        self.now_s = time.monotonic()

    def monotonic(self) -> float:
        self.now_s += 1e-5
        return self.now_s


async def test_a_replay_over_the_wire_is_in_the_trace(
    served: Any, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady = SteadyTime()
    for module in (connection, server):
        monkeypatch.setattr(module, "time", steady)
    client = redis.asyncio.Redis(port=served.port)
    requests = chains(5, 40)
    stored: set[str] = set()
    for blocks in requests:
        hits = 0
        while hits < len(blocks) and await client.exists(blocks[hits]):
            hits += 1
        assert set(blocks[:hits]) <= stored
        for block in blocks[:hits]:
            assert await client.get(block) is not None
        for block in blocks[hits:]:
            await client.set(block, bytes(3000))
            stored.add(block)
    await client.aclose()
    while served.node.sessions:
        await admin.status()
    lines = [json.loads(line) for line in (await admin.trace()).lines.splitlines()]
    assert [line["hash_ids"] for line in lines] == [
        [block_id(b.encode()) for b in blocks] for blocks in requests
    ]
    assert all(line["observed_at"] == "node" for line in lines)
    assert [line["input_length"] for line in lines] == [16 * len(blocks) for blocks in requests]


def test_the_ring_is_bounded_and_says_what_it_dropped() -> None:
    ring = TraceRing("boot")
    for number in range(MAX_LINES + 10):
        ring.append_inferred(Inferred(number, [number], 0), 1)
    assert len(ring) <= MAX_LINES
    page = ring.read("boot:4")
    assert page.gap == ring.dropped - 4 > 0
    assert json.loads(page.lines.splitlines()[0])["seq"] == ring.dropped
    total, since = 0, "boot:0"
    while lines := ring.read(since).lines:
        total, since = total + lines.count(b"\n"), ring.read(since).next
    assert (total, since) == (len(ring), ring.next)
    for _ in range(20):
        ring.append_inferred(Inferred(0, list(range(2**52, 2**52 + 60_000)), 0), 1)
    kept = sum(LINE_BYTES + BLOCK_ID_BYTES * len(line.hash_ids) for line in ring._lines)
    assert kept <= MAX_BYTES


_CHAINS = [[b"a%d" % i for i in range(6)], [b"a0", b"a1", b"b2", b"b3"], [b"c%d" % i for i in range(5)]]
_COMMANDS = st.lists(
    st.tuples(
        st.sampled_from(list(Access)),
        st.integers(0, 2),
        st.integers(0, 4),
        st.integers(1, 6),
        st.integers(0, 6),
        st.sampled_from([0.0, 0.1, 6.0, 61.0]),
    ),
    max_size=30,
)


@given(_COMMANDS)
@settings(max_examples=300, deadline=None)
def test_a_command_of_many_keys_is_its_keys_one_by_one(
    commands: list[tuple[Access, int, int, int, int, float]],
) -> None:
    """Commands of several keys take a short way through the inference; single keys never do."""
    seen: tuple[list[Inferred], list[Inferred]] = [], []
    nodes = [Inference(told.append) for told in seen]
    whole, single = map(Client, nodes)
    now_s = 1000.0
    for access, which, start, count, hit_count, gap_s in commands:
        now_s += gap_s
        keys = _CHAINS[which][start : start + count]
        if not keys:
            continue
        hits = [access is not Access.STORE and index < hit_count for index in range(len(keys))]
        whole.access(access, keys, hits, now_s)
        for key, hit in zip(keys, hits, strict=True):
            single.access(access, [key], [hit], now_s)
    whole.end()
    single.end()
    assume(not any(LOOSE in node._parents._newer.values() for node in nodes))  # where keys are no chains
    assert seen[0] == seen[1]


def test_a_command_whose_keys_are_no_chain_becomes_one_request() -> None:
    seen: list[Inferred] = []
    client, rng = Client(Inference(seen.append)), random.Random(1)
    keys = [b"user:%d" % number for number in range(64)]
    for number in range(40):
        rng.shuffle(keys)
        client.access(Access.LOAD, list(keys), [True] * 64, 1000.0 + number)
    client.end()
    last = [line for line in seen if line.began_ms >= 1_020_000]
    assert [sorted(line.blocks) for line in last] == [sorted(map(block_id, keys))] * 20
    assert [line.hit_blocks for line in last] == [64] * 20


def test_of_one_chain_asked_for_again_and_again_a_bounded_number_is_under_way() -> None:
    seen: list[Inferred] = []
    of_node = Inference(seen.append)
    client, keys = Client(of_node), _CHAINS[0]
    client.access(Access.LOOK_UP, keys, [True] * 6, 1000.0)
    for number in range(200):
        client.access(Access.LOOK_UP, list(keys), [True] * 5 + [number % 2 == 0], 1000.1 + number / 1000)
    assert len(of_node._open) <= MAX_ALIKE + 2
    client.end()
    assert [line.blocks for line in seen] == [[*map(block_id, keys)]] * 201
    assert sum(line.hit_blocks == 5 for line in seen) == 100


@pytest.mark.parametrize("access", [Access.LOAD, Access.STORE])
def test_the_same_block_again_and_again_is_a_request_each_time(access: Access) -> None:
    seen: list[Inferred] = []
    of_node = Inference(seen.append)
    clients = [Client(of_node, "host") for _ in range(4)]
    for number in range(400):
        clients[number % 4].access(
            access, [b"kvt:m:l:0:r:0:h"], [access is Access.LOAD], 1000 + number / 1000
        )
    of_node.end()
    assert [line.began_ms for line in seen] == [1_000_000 + number for number in range(400)]
    assert {line.hit_blocks for line in seen} == {int(access is Access.LOAD)}


def test_what_is_looked_up_after_it_was_loaded_is_another_request() -> None:
    seen: list[Inferred] = []
    client = Client(Inference(seen.append))
    for access in (Access.LOAD, Access.LOOK_UP, Access.LOAD):
        client.access(access, [b"a"], [True], 1000.0)
    client.end()
    assert len(seen) == 2


def test_a_request_is_looked_up_by_one_host() -> None:
    seen: list[Inferred] = []
    of_node = Inference(seen.append)
    one, other = Client(of_node, "10.0.0.1"), Client(of_node, "10.0.0.2")
    for at_s in (1000.0, 1100.0):  # the first time it is not known what follows what
        for number, key in enumerate(_CHAINS[0]):
            one.access(Access.LOOK_UP, [key], [True], at_s + number * 0.002)
            other.access(Access.LOOK_UP, [key], [True], at_s + number * 0.002 + 0.001)
    of_node.end()
    again = [line for line in seen if line.began_ms >= 1_100_000]
    assert [line.blocks for line in again] == [[*map(block_id, _CHAINS[0])]] * 2
    assert len({line.client for line in again}) == 2
    assert [line.asked_us for line in again] == [(0, pytest.approx(10_000, abs=2))] * 2


async def test_accesses_that_wait_are_told_when_the_trace_is_read(served: Any, admin: Any) -> None:
    client = redis.asyncio.Redis(port=served.port)
    for _ in range(5):
        await client.set("a", b"value")
    while len(served.node.inference.noted) < 5:
        await admin.status()
    page = await admin.trace()
    assert page.lines.count(b"\n") == 4
    assert not served.node.inference.noted
    await client.aclose()
