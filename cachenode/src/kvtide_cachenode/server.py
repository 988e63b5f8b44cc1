"""The data port: accepts connections, keeps their number bounded, and cuts off those that stall."""

import asyncio
import contextlib
import socket
import time

from kvtide_cachenode.connection import Connection
from kvtide_cachenode.node import Node
from kvtide_cachenode.session import Session

# Each connection's buffer is 64 KiB, of which 16 KiB are touched: 2,000 take 32 MiB.
MAX_CONNECTIONS = 2_000
ACCEPTS_PER_TURN = 64
BACKLOG = 511
SWEEP_S = 1.0
# A peer that leaves a request unfinished or replies unread for this long holds memory for nothing.
STALL_S = 60.0
FULL = b"-ERR max number of clients reached\r\n"


class DataServer:
    """Listens for RESP clients on one address."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._connections: dict[int, Connection] = {}
        self._listener: socket.socket | None = None
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
        self._sweeper = loop.create_task(self._sweep())
        bound = listener.getsockname()
        return bound[0], bound[1]

    async def stop(self) -> None:
        """Stop accepting and close every connection."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
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
            except OSError:  # none left, gone again, or no file descriptors: the next turn tries again
                return
            sock.setblocking(False)
            if len(self._connections) >= MAX_CONNECTIONS:
                self._node.connections_refused += 1
                with contextlib.suppress(OSError):
                    sock.send(FULL)
                sock.close()
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._node.connections_total += 1
            session = Session(self._node, self._node.connections_total, f"{address[0]}:{address[1]}")
            self._node.sessions[session.id] = session
            self._connections[session.id] = Connection(loop, sock, session, self._forget)

    def _forget(self, session_id: int) -> None:
        del self._connections[session_id]
        del self._node.sessions[session_id]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s, unix_s = time.monotonic(), time.time()
            for connection in list(self._connections.values()):
                if connection.waiting and now_s - connection.progress_s > STALL_S:
                    connection.close()
                elif connection.session.inference is not None:
                    connection.session.inference.end_idle(unix_s)
