"""What a fleet sees: the access trace, and nodes that are resized under load."""

import random
import threading
import time
from collections import OrderedDict

import pytest

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


def test_the_node_shrinks_to_half_and_back_while_the_engine_serves(first, node, make_prompt, show):
    prompts, phase = 20, 25
    first.forget()
    node.ask(b"FLUSHALL")
    with node.storing(1):
        first.tokens(make_prompt(128 + 5, 999), 1)
    full = prompts * node.status()["tiers"]["dram"]["used_bytes"]
    node.resize(full)
    seen = len(node.trace())
    chosen = random.Random(5)
    order = list(range(prompts)) + [chosen.randrange(prompts) for _ in range(4 * phase)]
    answered, failures = [], []

    def serve():
        for number in order:
            try:
                first.tokens(make_prompt(128 + 5, 1000 + number), 1)
                first.forget()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request
                failures.append(error)
                return
            answered.append(number)

    thread = threading.Thread(target=serve)
    thread.start()
    moments = []
    for at, size in ((prompts + phase, full // 2), (prompts + 3 * phase, full)):
        while len(answered) < at and thread.is_alive():
            time.sleep(0.05)
        moments.append(len(answered))
        node.resize(size)
    thread.join()
    node.resize(4 << 30)
    assert not failures
    hits = [line["hit_blocks"] for line in node.trace(seen + len(order))[seen:]]
    # What a plain LRU of whole prompts would hit, resized at the same moments.
    lru, expected = Lru(), []
    for at, number in enumerate(order):
        expected.append(lru.ask(number, prompts // 2 if moments[0] <= at < moments[1] else prompts))
    phases = {
        "full": (prompts, moments[0]),
        "half": (moments[0], moments[1]),
        "full again": (moments[1], None),
    }
    for name, (start, stop) in phases.items():
        got, curve = hits[start:stop], expected[start:stop]
        ratio, predicted = sum(got) / len(got), sum(curve) / len(curve)
        show(f"{name}: hit ratio {ratio:.2f} of {len(got)} requests, by the curve {predicted:.2f}")
        assert abs(ratio - predicted) <= 0.05
