"""RESP replies: values to bytes, in the version the client chose with HELLO.

Errors and short replies are the same bytes in both versions; what differs is how nothing, maps and sets look.
"""

from collections.abc import Mapping, Sequence

OK = b"+OK\r\n"
CRLF = b"\r\n"
NIL2 = b"$-1\r\n"
NIL3 = b"_\r\n"

Reply = int | bytes | str | None | Sequence["Reply"] | Mapping[str, "Reply"]

_INTEGERS = [b":%d\r\n" % number for number in range(1025)]


def integer(number: int) -> bytes:
    """An integer."""
    return _INTEGERS[number] if 0 <= number <= 1024 else b":%d\r\n" % number


def bulk(value: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def simple(text: str) -> bytes:
    """A simple string, one line."""
    return b"+%b\r\n" % text.encode()


def error(sentence: str, code: str = "ERR") -> bytes:
    """An error reply; line breaks in the sentence become spaces."""
    return f"-{code} {' '.join(sentence.split())}\r\n".encode("utf-8", "backslashreplace")


def encode(value: Reply, resp3: bool) -> bytes:
    """Any nested reply. A str or bytes is a bulk string; a mapping is a flat array in RESP2."""
    match value:
        case None:
            return NIL3 if resp3 else NIL2
        case int():
            return integer(value)
        case bytes():
            return bulk(value)
        case str():
            return bulk(value.encode())
        case Mapping():
            head = b"%%%d\r\n" % len(value) if resp3 else b"*%d\r\n" % (2 * len(value))
            pairs = (bulk(key.encode()) + encode(item, resp3) for key, item in value.items())
            return head + b"".join(pairs)
    return b"*%d\r\n" % len(value) + b"".join(encode(item, resp3) for item in value)
