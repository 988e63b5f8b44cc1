"""What clients make the node hold beside the tier: requests not complete, replies not taken.

Each connection says at the end of a turn what it holds. The sum has a bound that falls as connections come:
many can hold little each. It takes of the tier's capacity; beyond the bound those who hold most are cut off.
"""

import asyncio
import logging
from typing import Final, Protocol

from kvtide_cachenode.store import Store
from kvtide_cachenode.store.room import SLICE_BYTES
from kvtide_cachenode.wire.resp import BUFFER_BYTES, READY_FACTOR

# The bound for few clients, and how much lower it is for each connection: 2,000 have 34 MiB together.
CLIENTS_BYTES: Final = 128 * 1024 * 1024
EACH_BYTES: Final = 48 * 1024
# Who was cut off counts as connected for so long: those who stay do not get the room of those who went.
CALM_S: Final = 60.0
# Never more than this part of the tier, and never less than the least.
CLIENTS_SHARE: Final = 1 / 2
LEAST_BYTES: Final = 16 * 1024 * 1024
# So much belongs to the process as it is planned for; what is above is charged to the tier, in steps.
UNCHARGED_BYTES: Final = 4 * 1024 * 1024
CHARGED_STEP_BYTES: Final = 256 * 1024
# A connection whose replies pile up beyond its allowance is not read from, and its requests wait.
MAX_UNSENT_BYTES: Final = 1024 * 1024
LEAST_UNSENT_BYTES: Final = 8 * 1024
# A reply in pieces goes on when no more than this of it is unsent.
PIECES_UNSENT_BYTES: Final = 512 * 1024
# What is taken in at once of a client's commands; parsed, it is several times as large.
LEAST_RECEIVE_BYTES: Final = 1024
CHARGE: Final = "clients"

log = logging.getLogger("kvtide_node")


class Client(Protocol):
    """A connection."""

    def cut_off(self, sentence: str) -> None: ...  # noqa: D102 - ends it, with an error where that can be sent


class ClientMemory:
    """The sum over all connections of a node.

    Each one's allowance is ``unsent_bytes`` for replies, and ``receive_bytes`` of commands at once.
    """

    def __init__(self, store: Store) -> None:
        self.total_bytes = 0
        self.cut_off = 0
        self.unsent_bytes = MAX_UNSENT_BYTES
        self.receive_bytes = BUFFER_BYTES
        self._store = store
        self._held: dict[Client, int] = {}
        self._connections = 0
        self._charged_bytes = 0
        self._relieving = False
        self._making_room = False

    @property
    def limit_bytes(self) -> int:
        """The bound on the sum now."""
        of_tier = int(self._store.capacity_bytes * CLIENTS_SHARE)
        return max(min(CLIENTS_BYTES - EACH_BYTES * self._connections, of_tier), LEAST_BYTES)

    def joined(self) -> None:
        """One connection more."""
        self._connections += 1
        self._divide()

    def left(self, client: Client) -> None:
        """A connection is closed; what it held is free."""
        self._connections -= 1
        self.holds(client, 0)
        self._divide()

    def holds(self, client: Client, size_bytes: int) -> None:
        """A connection holds so much from now on."""
        before = self._held.pop(client, 0)
        if size_bytes:
            self._held[client] = size_bytes
        self.total_bytes += size_bytes - before
        self._charge()
        if self.total_bytes > self.limit_bytes and not self._relieving:
            self._relieve(client)

    def _calm(self) -> None:
        self._connections -= 1
        self._divide()

    def _divide(self) -> None:
        allowance = self.limit_bytes // (2 * max(self._connections, 1))
        self.unsent_bytes = min(max(allowance, LEAST_UNSENT_BYTES), MAX_UNSENT_BYTES)
        self.receive_bytes = min(max(allowance // (2 * READY_FACTOR), LEAST_RECEIVE_BYTES), BUFFER_BYTES)

    def _charge(self) -> None:
        charge = max(self.total_bytes - UNCHARGED_BYTES, 0)
        if charge == self._charged_bytes or (
            charge and abs(charge - self._charged_bytes) < CHARGED_STEP_BYTES
        ):
            return
        more, self._charged_bytes = charge - self._charged_bytes, charge
        self._store.charge_beside(CHARGE, charge)
        if more > 0 and not self._making_room:
            self._make_room(more)

    def _make_room(self, slice_bytes: int = SLICE_BYTES) -> None:
        """Have the tier make way, a slice each turn of the loop, until it has or can not."""
        store = self._store
        self._making_room = store.over_capacity() and store.shrink(slice_bytes) and store.over_capacity()
        if self._making_room:
            asyncio.get_running_loop().call_soon(self._make_room)

    def _relieve(self, busy: Client | None = None) -> None:
        """Cut off at once who holds most: a round of the loop brings gigabytes. ``busy`` comes later."""
        self._relieving = True
        while self._held and self.total_bytes > (limit_bytes := self.limit_bytes):
            client = max(self._held, key=self._held.__getitem__)
            if client is busy:
                asyncio.get_running_loop().call_soon(self._relieve)
                break
            held_bytes = self._held[client]
            self.cut_off += 1
            self._connections += 1
            asyncio.get_running_loop().call_later(CALM_S, self._calm)
            log.warning("cut off a client that holds %d of %d bytes", held_bytes, self.total_bytes)
            client.cut_off(
                f"this client had {held_bytes} bytes unparsed or unsent, the most of all clients, "
                f"which together may have {limit_bytes}"
            )
            self.holds(client, 0)
        self._relieving = False
