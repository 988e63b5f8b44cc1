"""What the loopback can do: `python -m benches.bare_loop REQUEST_BYTES REPLY_BYTES`.

Receives requests of a known length into one buffer, looks at none of it, and answers each with one buffer of
the given length. Everything else a server does is left out.
"""

import mmap
import select
import socket
import sys

PAGE_BYTES = mmap.PAGESIZE


def buffer(size_bytes: int) -> memoryview:
    """Memory that begins in the middle of a page: from there the kernel copies faster on some processors."""
    memory = memoryview(mmap.mmap(-1, size_bytes + PAGE_BYTES))
    memory[:] = bytes(len(memory))
    return memory[PAGE_BYTES // 2 :][:size_bytes]


class Connection:
    """What is missing of the request under way, and what is unsent of its reply."""

    def __init__(self, sock: socket.socket, request: memoryview, reply: memoryview) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket, self.request, self.reply = sock, request, reply
        self.received = self.sent = 0

    def go_on(self) -> None:
        """Receive and send until one of them would wait.

        Raises:
            OSError: it would wait, or the peer is gone.
        """
        while True:
            while self.received < len(self.request):
                count = self.socket.recv_into(self.request[self.received :])
                if not count:
                    raise ConnectionResetError
                self.received += count
            while self.sent < len(self.reply):
                self.sent += self.socket.send(self.reply[self.sent :])
            self.received = self.sent = 0


def main() -> None:
    request, reply = (buffer(int(size)) for size in sys.argv[1:])
    poll = select.epoll()
    connections: dict[int, Connection] = {}
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        poll.register(listener, select.EPOLLIN)
        print(listener.getsockname()[1], flush=True)
        while True:
            for number, _ in poll.poll():
                if number == listener.fileno():
                    connection = Connection(listener.accept()[0], request, reply)
                    connections[connection.socket.fileno()] = connection
                    poll.register(connection.socket, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
                    continue
                try:
                    connections[number].go_on()
                except BlockingIOError:
                    continue
                except OSError:  # the client has what it wanted
                    connections.pop(number).socket.close()


if __name__ == "__main__":
    main()
