"""One line of the access trace for each request, sent to one node by a thread."""

import logging
import queue
import threading
import time
from typing import Final

import msgspec

from kvtide_cachenode.contract.trace_line import EngineLine
from kvtide_cachenode.engines.node_connection import NodeError
from kvtide_cachenode.engines.node_set import NodeSet
from kvtide_cachenode.engines.tally import Tally
from kvtide_cachenode.wire.resp_client import Refused, encode

MAX_WAITING_LINES: Final = 10_000  # more are dropped and counted
SEND_TIMEOUT_S: Final = 2.0
FINISH_S: Final = 2.0
# All engines' lines of one model go to the node that owns this key.
NODE_KEY: Final = b"kvt:trace"

logger = logging.getLogger("vllm.kvtide")


class TraceReporter:
    """Takes lines at any pace and loses them, counted, rather than hold up the engine."""

    def __init__(self, nodes: NodeSet, tally: Tally) -> None:
        self._nodes = nodes
        self._tally = tally
        self._lines: queue.Queue[EngineLine | None] = queue.Queue(MAX_WAITING_LINES)
        self._thread = threading.Thread(target=self._run, name="kvtide-trace", daemon=True)
        self._thread.start()

    def report(self, line: EngineLine) -> None:
        """Send ``line`` soon."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._tally.add("trace_dropped_lines")

    def close(self) -> None:
        """Give what waits `FINISH_S`."""
        try:
            self._lines.put(None, timeout=FINISH_S)
        except queue.Full:
            return
        self._thread.join(FINISH_S)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._tally.add(self._send(line))
            except Exception:
                logger.exception("kvtide: a line of the access trace is lost")
                self._tally.add("trace_dropped_lines")

    def _send(self, line: EngineLine) -> str:
        """What became of it, by the counter's name."""
        deadline_s = time.monotonic() + SEND_TIMEOUT_S
        address = self._nodes.owner(NODE_KEY)
        if not self._nodes.is_up(address):
            return "trace_dropped_lines"
        try:
            with self._nodes.connection(address, deadline_s) as connection:
                reply = connection.ask(encode(b"KVTIDE.TRACE", msgspec.json.encode(line)), deadline_s)
        except NodeError:
            return "trace_dropped_lines"
        return "trace_refused_lines" if isinstance(reply, Refused) else "trace_lines"
