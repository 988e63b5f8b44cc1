"""What the connector counts: plain sums, taken away at each step and added up in the engine's metrics."""

import threading
from collections import defaultdict
from typing import Final

COUNTERS: Final = {
    "lookups": "Requests looked up in the nodes, each counted when it is admitted.",
    "lookup_seconds": "Time their look-ups took.",
    "lookup_timeouts": "Requests whose look-up took too long: what it had not found counted as missing.",
    "lookup_node_down": "Requests of whose blocks a node should have known that was down.",
    "loads": "Requests that loaded blocks.",
    "load_blocks": "Blocks loaded.",
    "load_bytes": "Bytes of blocks loaded.",
    "load_failed_blocks": "Blocks that were to be loaded and are computed instead.",
    "load_damaged_blocks": "Blocks that came and were not what they should be.",
    "load_seconds": "Time from the start of a load until the scheduler is told of its end.",
    "load_wait_seconds": "The part of it in which the load was over and the step was not.",
    "transfer_seconds": "Time threads received blocks.",
    "check_seconds": "Time threads verified checksums.",
    "scatter_seconds": "Time threads copied blocks into the KV cache.",
    "gather_seconds": "Time steps were held up to copy blocks out of the KV cache.",
    "store_blocks": "Blocks stored.",
    "store_bytes": "Bytes of blocks stored.",
    "store_seconds": "Time threads sent blocks.",
    "store_dropped_buffer_full": "Blocks not stored because the store buffer was full.",
    "store_dropped_node_down": "Blocks not stored because their node was left alone.",
    "store_failed": "Blocks not stored because their node failed.",
    "store_refused": "Blocks that a node refused.",
    "store_dropped_adapter_changed": "Blocks not stored because their LoRA adapter is no longer what it was.",
    "node_errors": "Transfers into the engine that a node broke off.",
    "accidents": "Transfers that broke off for a reason that should not be; the log has it.",
    "trace_lines": "Requests reported to the access trace.",
    "trace_dropped_lines": "Requests not reported.",
    "trace_refused_lines": "Reports that a node refused.",
}


class Tally:
    """Counters that any thread adds to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: defaultdict[str, float] = defaultdict(float)

    def add(self, name: str, amount: float = 1) -> None:
        """Count one of `COUNTERS`."""
        assert name in COUNTERS, name
        with self._lock:
            self._sums[name] += amount

    def take(self) -> dict[str, float]:
        """What was counted since the last call."""
        with self._lock:
            taken = dict(self._sums)
            self._sums.clear()
        return taken
