"""What the loopback can do with `lm://`: `python -m benches.bare_lm LARGEST_PAYLOAD_BYTES`.

Receives every payload into one buffer and answers every GET with what is there; stores
nothing, checks nothing, a blocking thread for each connection.
"""

import mmap
import socket
import struct
import sys
from threading import Thread

HEADER = struct.Struct("<2i")  # command, length; the rest of the request does not matter here
REQUEST_BYTES = 186
REPLY = struct.Struct("<9i")
PUT, GET = 1, 2
SUCCESS = 200
PAGE_BYTES = mmap.PAGESIZE


class Payload:
    """One buffer for all connections; it begins in the middle of a page, where the kernel copies faster."""

    def __init__(self, size_bytes: int) -> None:
        self.memory = memoryview(mmap.mmap(-1, size_bytes + PAGE_BYTES))[PAGE_BYTES // 2 :]
        self.length = 0


def fill(connection: socket.socket, target: memoryview) -> bool:
    """Receive all of ``target``; False at the end of input."""
    done = 0
    while done < len(target):
        count = connection.recv_into(target[done:])
        if not count:
            return False
        done += count
    return True


def serve(connection: socket.socket, payload: Payload) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = memoryview(bytearray(REQUEST_BYTES))
    with connection:
        while fill(connection, request):
            command, length = HEADER.unpack_from(request)
            if command == PUT:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                if not fill(connection, payload.memory[:length]):
                    return
                payload.length = length
                continue
            sent = payload.length if command == GET else 0
            connection.sendall(REPLY.pack(SUCCESS, sent, 1, 3, 2, 1, sent // 4, 1, 0))
            connection.sendall(payload.memory[:sent])


def main() -> None:
    payload = Payload(int(sys.argv[1]))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            Thread(target=serve, args=(listener.accept()[0], payload), daemon=True).start()


if __name__ == "__main__":
    main()
