"""A client that costs little: blocking sockets, prebuilt requests, replies received into one fixed buffer.

It checks no byte of a value, so what limits is the server or the loopback. It runs in a process of its own
(`python -m benches.lean_client PORT CASE SIZE CONNECTIONS SECONDS`) and prints round trips per second; what
it reads must have been stored (`prepare`).
"""

import socket
import sys
import time

KEYS = 64  # of one EXISTS or MGET
DEPTH = 16  # requests of the many-key cases under way on one connection


def request(*words: bytes) -> bytes:
    """One RESP command."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def key(number: int) -> bytes:
    return b"kvt:model:fp16:0:9f86d081884c7d65:%d:60303ae22b998861bce3b28f33eec1be" % number


def case(name: str, size_bytes: int) -> tuple[bytes, int]:
    """The bytes to send at once and how many bytes answer them. ``size_bytes`` is a value's."""
    keys = [key(number) for number in range(KEYS)]
    one_exists = b"".join(request(b"EXISTS", word) for word in keys)
    match name:
        case "GET":
            return request(b"GET", key(0)), len(b"$%d\r\n\r\n" % size_bytes) + size_bytes
        case "SET":
            return request(b"SET", key(0), bytes(size_bytes)), len(b"+OK\r\n")
        case "EXISTS":
            return request(b"EXISTS", *keys) * DEPTH, len(b":64\r\n") * DEPTH
        case "EXISTS1":
            return one_exists, len(b":1\r\n") * KEYS
        case "MGET":
            value = len(b"$%d\r\n\r\n" % size_bytes) + size_bytes
            return request(b"MGET", *keys) * DEPTH, (len(b"*64\r\n") + value * KEYS) * DEPTH
    raise ValueError(f"{name!r} is no case")


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def prepare(port: int, name: str, size_bytes: int) -> None:
    """Store what the case reads."""
    keys = {"GET": 1, "SET": 0}.get(name, KEYS)
    with connect(port) as connection:
        for number in range(keys):
            connection.sendall(request(b"SET", key(number), bytes(size_bytes)))
            assert connection.recv(5, socket.MSG_WAITALL) == b"+OK\r\n"


def rate(port: int, name: str, size_bytes: int, connections: int, seconds: float) -> float:
    """Round trips a second; each connection has one under way, and is served again when it has its answer."""
    said, answer_bytes = case(name, size_bytes)
    buffer = bytearray(answer_bytes)
    sockets = [connect(port) for _ in range(connections)]
    everything = socket.MSG_WAITALL
    try:
        for connection in sockets:
            connection.sendall(said)
        count = 0
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            for connection in sockets:
                got = connection.recv_into(buffer, answer_bytes, everything)
                assert got == answer_bytes, f"{got} of {answer_bytes} bytes: {bytes(buffer[:60])!r}"
                connection.sendall(said)
            count += connections
        assert buffer[:1] != b"-", f"an error instead of an answer: {bytes(buffer[:60])!r}"
        return count / took
    finally:
        for connection in sockets:
            connection.close()


if __name__ == "__main__":
    port, name, size, connections, seconds = sys.argv[1:]
    print(rate(int(port), name, int(size), int(connections), float(seconds)))
