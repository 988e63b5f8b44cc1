"""The data port: accepts connections, keeps their number bounded, and cuts off those that stall."""

import asyncio
import contextlib
import errno
import logging
import math
import socket
import time

from kvtide_cachenode.access.tls import Certificates, wrap
from kvtide_cachenode.node import Node
from kvtide_cachenode.process.background import every
from kvtide_cachenode.serve.connection import Connection
from kvtide_cachenode.serve.file_limit import connections_within, file_limit
from kvtide_cachenode.serve.session import Session

MAX_CONNECTIONS = 2_000
# Above the limit nodes of the cluster are still let in: a guest that is none is sent away.
RESERVED_CONNECTIONS = 128
# Whoever needs a password says it in this time; a guest that it is a peer.
LOGIN_S = 30.0
# Without a free file descriptor nothing is accepted for so long.
ACCEPT_PAUSE_S = 0.5
# That is logged once, and again only when all went well for so long in between.
PAUSES_TOLD_S = 60.0
NO_FILES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
ACCEPTS_PER_TURN = 64
BACKLOG = 511
SWEEP_S = 1.0
# A peer that leaves a request unfinished or replies unread holds memory: it is cut off unless it moves at
# least so much in each such time.
STALL_S = 60.0
STALL_BYTES = 64 * 1024
FINISH_POLL_S = 0.02
log = logging.getLogger("kvtide_node")
FULL = b"-ERR max number of clients reached\r\n"


class DataServer:
    """Listens on one address for clients of one protocol: RESP, or another ``connection``'s.

    ``full`` is what a client above the limit is told, if its protocol has words for it and it speaks without
    TLS.
    """

    def __init__(
        self,
        node: Node,
        connection: type[Connection] = Connection,
        full: bytes = FULL,
        tls: Certificates | None = None,
    ) -> None:
        self._node = node
        self._connection = connection
        self._full = full
        self._tls = tls
        self._connections: dict[int, Connection] = {}
        self._listener: socket.socket | None = None
        self._most = connections_within(file_limit(), node.store)
        self._pause: asyncio.TimerHandle | None = None
        self._paused_s = -math.inf
        self._sweeper: asyncio.Task[None] | None = None

    def start(self, host: str, port: int) -> tuple[str, int]:
        """Bind and accept from now on; returns the bound address.

        Raises:
            OSError: the address cannot be bound.
        """
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        self._listener = listener
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._accept, loop, listener)
        self._sweeper = loop.create_task(every(SWEEP_S, "sweep", self._node.failures, self._sweep))
        bound = listener.getsockname()
        return bound[0], bound[1]

    async def finish(self, within_s: float) -> None:
        """Accept no more; close each connection as soon as nothing is under way on it, and in due time."""
        self._stop_accepting()
        deadline_s = time.monotonic() + within_s
        while self._connections and time.monotonic() < deadline_s:
            for connection in list(self._connections.values()):
                if connection.idle:
                    connection.close()
            await asyncio.sleep(FINISH_POLL_S)

    def _stop_accepting(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def stop(self) -> None:
        """Stop accepting and close every connection."""
        self._stop_accepting()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        for connection in list(self._connections.values()):
            connection.close()

    def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = listener.accept()
            except OSError as error:  # none left, gone again, or no file descriptors
                if error.errno in NO_FILES:
                    self._pause_accepting(loop, listener, error)
                return
            sock.setblocking(False)
            over = len(self._node.sessions) - min(MAX_CONNECTIONS, self._most) + 1
            if over > 0 and self._make_way():
                over -= 1
            if over > (RESERVED_CONNECTIONS if self._full else 0):
                self._refuse(sock)
                continue
            if self._tls is not None:
                try:
                    sock = wrap(self._tls.newest, sock)
                except OSError:
                    sock.close()
                    continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._node.connections_total += 1
            session = Session(self._node, self._node.connections_total, f"{address[0]}:{address[1]}")
            self._node.sessions[session.id] = session
            if over > 0:
                session.be_guest()
            self._connections[session.id] = self._connection(loop, sock, session, self._forget)

    def _make_way(self) -> bool:
        """Close the oldest connection whose client has not shown that it is one; whether there was any."""
        stranger = next((each for each in self._connections.values() if each.stranger), None)
        if stranger is None:
            return False
        self._node.connections_evicted += 1
        stranger.close()
        return True

    def _refuse(self, sock: socket.socket) -> None:
        self._node.connections_refused += 1
        if self._tls is None:
            with contextlib.suppress(OSError):
                sock.send(self._full)
        sock.close()

    def _pause_accepting(
        self, loop: asyncio.AbstractEventLoop, listener: socket.socket, error: OSError
    ) -> None:
        """Leave whoever waits alone for a moment: the listener stays readable and would be asked at once."""
        self._node.accept_pauses += 1
        now_s = time.monotonic()
        if now_s - self._paused_s > PAUSES_TOLD_S:
            log.warning(
                "no connection can be accepted for a moment: %s; how often from now on is counted",
                error.strerror,
            )
        self._paused_s = now_s
        loop.remove_reader(listener)
        self._make_way()

        def resume() -> None:
            loop.add_reader(listener, self._accept, loop, listener)

        self._pause = loop.call_later(ACCEPT_PAUSE_S, resume)

    def _forget(self, session_id: int) -> None:
        del self._connections[session_id]
        del self._node.sessions[session_id]

    def _stalls(self, connection: Connection, now_s: float) -> bool:
        """Whether the peer has owed us something all the time since we looked, and has hardly moved."""
        if not connection.waiting or connection.judged is None:
            connection.judged = now_s, connection.moved_bytes
            return False
        since_s, moved_bytes = connection.judged
        if now_s - since_s <= STALL_S:
            return False
        connection.judged = now_s, connection.moved_bytes
        return connection.moved_bytes - moved_bytes < STALL_BYTES

    def _is_late(self, session: Session) -> bool:
        """Whether a client has not said in time who it is."""
        unknown = session.user is None or session.guest
        return unknown and self._node.uptime_s() - session.connected_s > LOGIN_S

    def _sweep(self) -> None:
        now_s = time.monotonic()
        for connection in list(self._connections.values()):
            try:
                self._look_at(connection, now_s)
            except Exception as error:  # noqa: BLE001 - one connection's trouble is not the others'
                self._node.failures.note("sweep", error)

    def _look_at(self, connection: Connection, now_s: float) -> None:
        if connection.gone:
            connection.close()
        elif self._stalls(connection, now_s):
            self._node.stalled_total += 1
            log.warning("cut off a client that stalls", extra={"client": connection.session.address})
            connection.close()
        elif self._is_late(connection.session):
            self._node.connections_evicted += 1
            connection.close()
        elif connection.session.inference is not None:
            connection.session.inference.end_idle(now_s + self._node.ahead_s)
