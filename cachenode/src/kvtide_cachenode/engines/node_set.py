"""The nodes of one cluster: which of them owns a key, and which is worth asking now.

The map of slots is asked for on a connection of its own every `REFRESH_S` and after a failure, so that a
client of data connections may know an older map than the nodes: they forward or redirect what comes to the
wrong one. A node that fails is left alone for a while, longer each time: meanwhile its blocks are misses, and
nothing is stored there.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from kvtide_cachenode.cluster.slots import SLOTS, key_slot
from kvtide_cachenode.engines.node_connection import Address, Credentials, NodeConnection, NodeError
from kvtide_cachenode.wire.resp_client import Refused, encode

REFRESH_S: Final = 5.0
MAP_TIMEOUT_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.5  # a node that failed is left alone for so long …
MAX_PAUSE_S: Final = 10.0  # … twice as long after each further failure, up to this
MIN_REFRESH_S: Final = 0.25
CLOSE_S: Final = 2.0
MAX_KEPT: Final = 64  # connections of one thread: the one used longest ago is closed
MAX_REMEMBERED: Final = 4096  # nodes whose failures are known

logger = logging.getLogger("vllm.kvtide")


class _Health:
    """How often a node failed in a row, and until when it is left alone."""

    def __init__(self) -> None:
        self.failures = 0  # in all: connections that are older than the last failure are not used again
        self.pause_s = 0.0
        self.paused_until_s = 0.0


class NodeSet:
    """All methods may be called from any thread; connections belong to the thread that uses them."""

    def __init__(self, seeds: list[Address], credentials: Credentials) -> None:
        assert seeds, "at least one node is named"
        self._seeds = seeds
        self._credentials = credentials
        self._owners: list[Address] = [seeds[0]] * SLOTS
        self._health: dict[Address, _Health] = {}
        self._mine = threading.local()
        self._open: set[NodeConnection] = set()
        self._refresh = threading.Event()
        self._closing = False
        self._load_map()
        self._thread = threading.Thread(target=self._keep_map, name="kvtide-map", daemon=True)
        self._thread.start()

    def owner(self, key: bytes) -> Address:
        """The node that ``key`` belongs to."""
        return self._owners[key_slot(key)]

    def is_up(self, address: Address) -> bool:
        """Whether the node is not being left alone after a failure."""
        health = self._health.get(address)
        return health is None or time.monotonic() >= health.paused_until_s

    @contextmanager
    def connection(self, address: Address, deadline_s: float) -> Iterator[NodeConnection]:
        """This thread's connection to a node; a failure within the block closes it and pauses the node.

        Raises:
            NodeError: nobody answers by the deadline.
        """
        health = self._health.get(address)
        if health is None:
            while len(self._health) >= MAX_REMEMBERED:
                self._health.pop(next(iter(self._health)), None)
            health = self._health.setdefault(address, _Health())
        kept: dict[Address, tuple[int, NodeConnection]] = self._mine.__dict__.setdefault("kept", {})
        failures = health.failures
        age, connection = kept.pop(address, (failures, None))
        if connection is not None and (age != failures or not connection.is_open()):
            self._forget(connection)
            connection = None
        try:
            if connection is None:
                connection = NodeConnection(address, self._credentials, deadline_s)
                self._open.add(connection)
            if self._closing:
                raise NodeError("the engine is ending")
            yield connection
        except BaseException as error:
            if connection is not None:
                self._forget(connection)
            if isinstance(error, NodeError) and not self._closing:
                self._failed(address, health, error)
            raise
        health.pause_s = 0.0
        kept[address] = failures, connection
        if len(kept) > MAX_KEPT:
            self._forget(kept.pop(next(iter(kept)))[1])

    def map_is_old(self) -> None:
        """A node redirected us: ask for the map soon."""
        self._refresh.set()

    def close(self) -> None:
        """End the thread that keeps the map, and all connections."""
        self._closing = True
        self._refresh.set()
        self._thread.join(CLOSE_S)
        for connection in list(self._open):
            self._forget(connection)

    def _forget(self, connection: NodeConnection) -> None:
        self._open.discard(connection)
        connection.close()

    def _failed(self, address: Address, health: _Health, error: NodeError) -> None:
        health.failures += 1
        health.pause_s = min(max(2 * health.pause_s, FIRST_PAUSE_S), MAX_PAUSE_S)
        health.paused_until_s = time.monotonic() + health.pause_s
        self._refresh.set()
        logger.warning(
            "kvtide: node %s:%d failed (%s); it is left alone for %g s", *address, error, health.pause_s
        )

    def _keep_map(self) -> None:
        while not self._closing:
            self._refresh.wait(REFRESH_S)
            self._refresh.clear()
            if not self._closing:
                try:
                    self._load_map()
                except Exception:
                    # The old map is better than none, and the next may be readable.
                    logger.exception("kvtide: the map of slots could not be read")
                # At most so often, however many requests report an old map.
                time.sleep(MIN_REFRESH_S)

    def _load_map(self) -> None:
        for address in dict.fromkeys([*self._seeds, *self._owners[:: SLOTS // 64]]):
            try:
                reply = self._ask_for_map(address)
            except NodeError:
                continue
            if isinstance(reply, Refused):
                self._owners = [address] * SLOTS  # it knows no cluster
            elif isinstance(reply, list):
                self._adopt(address, reply)
            return

    def _ask_for_map(self, address: Address) -> object:
        deadline_s = time.monotonic() + MAP_TIMEOUT_S
        connection = NodeConnection(address, self._credentials, deadline_s)
        try:
            return connection.ask(encode(b"CLUSTER", b"SLOTS"), deadline_s)
        finally:
            connection.close()

    def _adopt(self, asked: Address, ranges: Iterable[object]) -> None:
        owners = [asked] * SLOTS
        for part in ranges:
            match part:
                case [int(first), int(last), [bytes(host), int(port), *_], *_] if (
                    0 <= first <= last < SLOTS and 0 < port < 65536
                ):
                    owner = (host.decode(errors="replace") or asked[0], port)
                    owners[first : last + 1] = [owner] * (last + 1 - first)
                case _:
                    logger.warning("kvtide: node %s:%d names slots in a form that is not known", *asked)
                    return
        self._owners = owners


def redirected_to(refused: Refused) -> Address | None:
    """The node that MOVED or ASK names, None for any other error."""
    words = refused.text.split()
    if len(words) != 3 or words[0] not in ("MOVED", "ASK"):
        return None
    host, _, port = words[2].rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    return (host, int(port)) if host and is_port else None
