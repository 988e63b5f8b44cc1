"""What it costs a node to put requests together from accesses, in CPU time a command.

    python -m benches.inference_cost

The connections take turns. The trace line is included, the store and the wire are not; keys are fresh
objects, as from the wire.
"""

import random
import time
from collections.abc import Callable
from itertools import count
from typing import Final

from benches.lean_client import KEYS, key

from kvtide_cachenode.access_trace.client import Client
from kvtide_cachenode.access_trace.inference import Access, Inference
from kvtide_cachenode.access_trace.ring import TraceRing

ROUNDS = 6
CONNECTIONS = 4
STEP_S = 40e-6
KEPT = 4_096
CHAIN = range(KEYS)
ALL_ACCESSES: Final = list(Access)

_rng, _fresh = random.Random(1), count(KEPT)
Command = tuple[Access, list[int], bool]
"""What is done to which keys, and whether they are there."""

CASES: Final[dict[str, tuple[int, Callable[[int], Command]]]] = {
    "GET of one key": (4_000, lambda _: (Access.LOAD, [0], True)),
    "SET of one key": (4_000, lambda _: (Access.STORE, [0], False)),
    "GET of any of 4,096 keys": (4_000, lambda _: (Access.LOAD, [_rng.randrange(KEPT)], True)),
    "SET of any of 4,096 keys": (4_000, lambda _: (Access.STORE, [_rng.randrange(KEPT)], False)),
    "GET of keys never seen": (4_000, lambda _: (Access.LOAD, [next(_fresh)], False)),
    "SET of keys never seen": (4_000, lambda _: (Access.STORE, [next(_fresh)], False)),
    "EXISTS of 64 keys, a chain": (400, lambda _: (Access.LOOK_UP, [*CHAIN], True)),
    "EXISTS, then MGET of the chain": (
        400, lambda at: (ALL_ACCESSES[at % 2], [*CHAIN], True)
    ),
    "EXISTS of 64 keys in any order": (100, lambda _: (Access.LOOK_UP, _rng.sample(CHAIN, KEYS), True)),
    "MGET of 64 of 4,096 keys": (100, lambda _: (Access.LOAD, _rng.sample(range(KEPT), KEYS), True)),
}  # fmt: skip


def main() -> None:
    """Print a table."""
    print("| command | µs |")
    print("|---|---|")
    for name, (commands, command) in CASES.items():
        print(f"| {name} | {_cost_us(commands, command):.1f} |", flush=True)


def _cost_us(commands: int, command: Callable[[int], Command]) -> float:
    """CPU time a command, of the best round behind the first."""
    ring = TraceRing("node")
    requests = Inference(lambda request: ring.append_inferred(request, 16))
    clients = [Client(requests, "host") for _ in range(CONNECTIONS)]
    now_s, costs_us = 1e9, []
    for _ in range(ROUNDS):
        said = [command(at) for at in range(commands)]
        told = [
            (clients[at % CONNECTIONS if len(keys) == 1 else 0], access, [key(n) for n in keys], hit)
            for at, (access, keys, hit) in enumerate(said)
        ]
        began_s = time.process_time()
        for client, access, keys, hit in told:
            now_s += STEP_S if len(keys) == 1 else 1e-3
            client.access(access, keys, [hit] * len(keys), now_s)
        requests.settle()
        costs_us.append((time.process_time() - began_s) / commands * 1e6)
    return min(costs_us[1:])


if __name__ == "__main__":
    main()
