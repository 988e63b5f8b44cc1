"""What a fleet sees: the access trace, and nodes that are resized under load."""

import random
import threading
import time
from collections import OrderedDict
from itertools import product
from operator import ne

import pytest
from engine_tests.processes import wait_for

pytestmark = pytest.mark.timeout(1200)


def test_the_trace_has_a_line_for_each_request(first, node, make_prompt):
    seen = len(node.trace())
    prompt = make_prompt(500, 300)
    with node.storing(500 // 128):
        answer = first.tokens(prompt, 5)
    first.tokens(prompt, 3)
    first.forget()
    first.tokens(prompt + answer[:1], 2)
    lines = node.trace(seen + 3)[seen:]
    names = ("input_length", "output_length", "hit_blocks", "local_hit_blocks")
    # Computed; found in the engine; found in the node.
    assert [tuple(line[name] for name in names) for line in lines] == [
        (500, 5, 0, 0),
        (500, 3, 3, 3),
        (501, 2, 3, 0),
    ]
    ids = [line["hash_ids"] for line in lines]
    assert ids[0] == ids[1]
    assert [len(set(one)) for one in ids] == [4, 4, 4]  # three full blocks and a partial one
    assert ids[2][:3] == ids[0][:3]
    assert ids[2][3] != ids[0][3]
    now_ms = time.time() * 1000
    assert all(now_ms - 600_000 < line["timestamp"] < now_ms for line in lines)


class Lru:
    """What a cache of so many prompts hits."""

    def __init__(self):
        self.kept = OrderedDict()

    def ask(self, prompt, capacity):
        hit = prompt in self.kept
        self.kept[prompt] = None
        self.kept.move_to_end(prompt)
        while len(self.kept) > capacity:
            self.kept.popitem(last=False)
        return hit


def hits_of_lru(order, prompts, shrunk_at, grown_at):
    """What a plain LRU of whole prompts would hit, resized before the requests of these numbers."""
    lru = Lru()
    return [
        lru.ask(number, prompts // 2 if shrunk_at <= at < grown_at else prompts)
        for at, number in enumerate(order)
    ]


def test_the_node_shrinks_to_half_and_back_while_the_engine_serves(first, node, make_prompt, show):
    prompts, phase = 20, 25
    first.forget()
    node.ask(b"FLUSHALL")
    with node.storing(1):
        first.tokens(make_prompt(128 + 5, 999), 1)
    (key,) = node.ask(b"SCAN", b"0")[1]
    entry_bytes = node.ask(b"MEMORY", b"USAGE", key)
    full, half = (count * entry_bytes + entry_bytes // 2 for count in (prompts, prompts // 2))
    node.resize(full)
    # The half above a whole prompt pays for what else the process holds.
    wait_for(
        lambda: node.status()["tiers"]["dram"]["used_bytes"],
        lambda used_bytes: used_bytes < entry_bytes + entry_bytes // 2,
        "more than entries is in use",
    )
    seen = len(node.trace())
    chosen = random.Random(5)
    order = list(range(prompts)) + [chosen.randrange(prompts) for _ in range(4 * phase)]
    answered, failures = [], []

    def used():
        """Blocks that the node gave or took: each request is one of them, a moment after its answer."""
        counted = node.metrics()
        return counted["kvtide_node_hits_total"] + counted["kvtide_node_sets_total"]

    def serve():
        try:
            before = used()
            for at, number in enumerate(order, 1):
                first.tokens(make_prompt(128 + 5, 1000 + number), 1)
                first.forget()
                # A prompt that is asked for again before it is stored would be a miss.
                wait_for(used, lambda blocks: blocks >= before + at, "a block is not stored")  # noqa: B023
                answered.append(number)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request
            failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    moments = []  # the first and the last request before which the resize may have been
    for at, size in ((prompts + phase, half), (prompts + 3 * phase, full)):
        while len(answered) < at and thread.is_alive():
            time.sleep(0.05)
        begun = len(answered)
        node.resize(size)
        moments.append(range(begun, len(answered) + 2))
    thread.join()
    node.resize(4 << 30)
    assert not failures
    hits = [line["hit_blocks"] for line in node.trace(seen + len(order))[seen:]]
    expected = min(
        (hits_of_lru(order, prompts, *at) for at in product(*moments)),
        key=lambda curve: sum(map(ne, hits, curve)),
    )
    middle = [at.start for at in moments]
    phases = {"full": (prompts, middle[0]), "half": tuple(middle), "full again": (middle[1], None)}
    for name, (start, stop) in phases.items():
        got, curve = hits[start:stop], expected[start:stop]
        ratio, predicted = sum(got) / len(got), sum(curve) / len(curve)
        show(f"{name}: hit ratio {ratio:.2f} of {len(got)} requests, by the curve {predicted:.2f}")
    assert hits == expected
