"""Clients that send one look-up in pieces, over several connections at once. Pure.

The pieces come in no order, and which of them are one request's cannot be told.
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kvtide_cachenode.access_trace.client import Client

TOGETHER_S: Final = 0.002
CONNECTIONS: Final = 4  # with look-ups of several keys so soon after a miss, at which others would stop
REMEMBERED_S: Final = 60.0
MAX_HOSTS: Final = 1_024


class Scattering:
    """Hosts with such clients, and until when that is held of them."""

    def __init__(self) -> None:
        self.hosts: dict[str, float] = {}
        self._together: dict[str, tuple[float, set[int]]] = {}

    @property
    def watches(self) -> bool:
        """Whether a look-up that misses nothing tells it something."""
        return bool(self._together)

    def look_up(self, client: "Client", now_s: float, *, missed: bool) -> None:
        """A client looks up several keys."""
        began_s, clients = self._together.get(client.host, (-1.0, set()))
        if not 0.0 <= now_s - began_s <= TOGETHER_S:
            if not missed:
                return
            if len(self._together) >= MAX_HOSTS:
                self._together.clear()
                self.hosts.clear()
            self._together[client.host] = now_s, {id(client)}
            return
        clients.add(id(client))
        if len(clients) >= CONNECTIONS:
            self.hosts[client.host] = now_s + REMEMBERED_S

    def is_of(self, host: str, now_s: float) -> bool:
        """Whether a host has had such a client within the last minute."""
        return now_s <= self.hosts.get(host, -1.0)
