"""Replies on their way out, as many buffers at once as the system takes; and the end behind the last one."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from kvtide_cachenode.serve.session import Session

BUFFERS_PER_SEND: Final = 512  # below IOV_MAX (1024)
# More buffers than one value takes, of so many bytes altogether, are sent faster as one copy.
FEW_BUFFERS: Final = 3
JOINED_BYTES: Final = 64 * 1024
# After a last reply, what the peer still sends is read away up to this much: closing with unread bytes resets
# the connection, and the peer would lose the reply that says what it did wrong.
LINGER_BYTES: Final = 1024 * 1024
_read_away = bytearray(64 * 1024)


def send(sock: socket.socket, session: Session) -> int:
    """Send what the socket takes now of a session's replies; how many bytes that was.

    Raises:
        OSError: the connection is lost.
    """
    out, before = session.out, session.queued_bytes
    if len(out) > FEW_BUFFERS and before <= JOINED_BYTES:
        out[:] = [b"".join(out)]
    while out:
        try:
            count = sock.sendmsg(out[:BUFFERS_PER_SEND])
        except BlockingIOError:
            break
        whole = _drop_sent(out, count)
        session.sent(count)
        if not whole:
            break
    return before - session.queued_bytes


def _drop_sent(out: list[bytes | memoryview], count: int) -> bool:
    """Remove the first ``count`` bytes of ``out``; whether they ended where a buffer ends, with none cut."""
    for index, buffer in enumerate(out):
        size = len(buffer)
        if count < size:
            del out[:index]
            if count:
                out[0] = memoryview(buffer)[count:]
            return False
        count -= size
        if not count:
            del out[: index + 1]
            return True
    return True


def linger(loop: asyncio.AbstractEventLoop, sock: socket.socket, close: Callable[[], None]) -> None:
    """Say that nothing more comes, and ``close`` when the peer has said so, too, or goes on for too long."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:  # the peer is gone already
        close()
        return
    left_bytes = LINGER_BYTES

    def drain() -> None:
        nonlocal left_bytes
        try:
            count = sock.recv_into(_read_away)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        left_bytes -= count
        if not count or left_bytes < 0:
            close()

    loop.add_reader(sock, drain)
