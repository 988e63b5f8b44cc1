"""What the loopback can do: answers whatever comes with one buffer (`python benches/bare_loop.py SIZE`)."""

import socket
import sys

RECEIVE_BYTES = 64 * 1024


def main() -> None:
    size_bytes = int(sys.argv[1])
    reply = b"$%d\r\n%b\r\n" % (size_bytes, bytes(size_bytes))
    buffer = bytearray(RECEIVE_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while connection.recv_into(buffer):
                    connection.sendall(reply)
            except OSError:  # the client has what it wanted
                continue
            finally:
                connection.close()


if __name__ == "__main__":
    main()
