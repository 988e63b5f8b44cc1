"""Arguments of 16 KiB and more: values and texts where they belong, a sentence everywhere else."""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.cachenode.raw_client import encoded

from kvtide_cachenode.serve.commands import TABLE
from kvtide_cachenode.serve.commands.landing import MAX_TEXT_BYTES
from kvtide_cachenode.wire.resp import LANDED_BYTES

LARGE = b"A" * LANDED_BYTES


class Client:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 20)
        self._file = self._socket.makefile("rb")

    def ask(self, *arguments: bytes) -> bytes:
        self._socket.sendall(encoded(arguments))
        return self.reply()

    def reply(self) -> bytes:
        """One reply as it came."""
        line = self._file.readline()
        if line[:1] == b"*":
            return line + b"".join(self.reply() for _ in range(int(line[1:])))
        if line[:1] != b"$" or line == b"$-1\r\n":
            return line
        return line + self._file.read(int(line[1:]) + 2)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.fixture
def client(start_node: Callable[..., Any]) -> Iterator[Client]:
    asking = Client(start_node("--dram", "64Mi").port)
    yield asking
    asking.close()


def test_a_long_key_is_refused_and_never_another_keys_place(client: Client) -> None:
    assert client.ask(b"SET", LARGE, b"x") == (
        b"-ERR argument 1 of 'set' has 16384 bytes: it may have fewer than 16384\r\n"
    )
    assert client.ask(b"GET", b"C" * LANDED_BYTES).startswith(b"-ERR argument 1 of 'get' has 16384 bytes")
    assert client.ask(b"DBSIZE") == b":0\r\n"
    longest = LARGE[:-1]
    assert client.ask(b"SET", longest, b"x") == b"+OK\r\n"
    assert client.ask(b"GET", longest) == b"$1\r\nx\r\n"


SHAPES = [
    (b"GETT", b"a"), (b"GET", b"k"), (b"GET",), (b"GET", b"k", b"k"), (b"MGET", b"a", b"b", b"c"),
    (b"DEL", b"a", b"b"), (b"EXISTS", b"a", b"b"), (b"SCAN", b"0", b"MATCH", b"*", b"COUNT", b"9"),
    (b"CLIENT", b"SETNAME", b"n"), (b"CLIENT", b"SETINFO", b"LIB-NAME", b"n"), (b"INFO", b"server"),
    (b"SET", b"k", b"v", b"NX", b"GET"), (b"SETNX", b"k", b"v"), (b"MSET", b"a", b"1", b"b", b"2"),
    (b"MSET", b"a", b"1", b"b"), (b"GETDEL", b"k"), (b"STRLEN", b"k"), (b"AUTH", b"u", b"p"),
    (b"HELLO", b"3", b"AUTH", b"u", b"p"), (b"SELECT", b"0"), (b"CLUSTER", b"KEYSLOT", b"k"),
    (b"COMMAND", b"INFO", b"get"), (b"CONFIG", b"GET", b"*"), (b"KVTIDE.PEER", b"1", b"x"),
    (b"ECHO", b"t"), (b"FLUSHALL", b"ASYNC"), (b"ACL", b"WHOAMI"),
]  # fmt: skip


def test_every_position_of_every_command(client: Client) -> None:
    """Each argument in turn is large: what is no value or text is refused, and the next reply is the next."""
    for shape in SHAPES:
        for index in range(len(shape)):
            reply = client.ask(*(LARGE if at == index else said for at, said in enumerate(shape)))
            described = None if index == 0 else TABLE.get(shape[0])
            if described is None or not (index in described.values or index in described.texts):
                assert reply.startswith(b"-ERR argument %d of " % index), (shape, reply)
                assert reply.endswith(b" has 16384 bytes: it may have fewer than 16384\r\n")
            else:
                assert not reply.startswith(b"-ERR argument"), (shape, reply)
            assert client.ask(b"PING", b"%d" % index) == b"$1\r\n%d\r\n" % index


def test_values_land_and_are_the_ones_that_were_sent(client: Client) -> None:
    a, b = b"a" * 70_000, b"b" * 20_000
    assert client.ask(b"MSET", b"k1", a, b"k2", b"small", b"k3", b) == b"+OK\r\n"
    assert client.ask(b"MGET", b"k1", b"k2", b"k3") == b"*3\r\n" + b"".join(
        b"$%d\r\n%b\r\n" % (len(value), value) for value in (a, b"small", b)
    )
    assert client.ask(b"SET", b"k1", b, b"XX", b"GET") == b"$70000\r\n" + a + b"\r\n"
    assert client.ask(b"SET", b"k1", a, b"EX", b"10").startswith(b"-ERR entries live until")
    assert client.ask(b"STRLEN", b"k1") == b":20000\r\n"
    # The large value of a refused MSET is not stored, and neither are its small ones.
    assert client.ask(b"MSET", b"n1", a, LARGE, b"v").startswith(b"-ERR argument 3 of 'mset'")
    assert client.ask(b"EXISTS", b"n1") == b":0\r\n"


def test_texts_are_bounded(client: Client) -> None:
    longer = bytes(MAX_TEXT_BYTES + 1)
    assert client.ask(b"KVTIDE.TRACE", longer) == (
        b"-ERR argument 1 of 'kvtide.trace' has 2097153 bytes: it may have at most 2097152\r\n"
    )
    assert client.ask(b"KVTIDE.TRACE", longer[1:]).startswith(b"-ERR not a trace line")
    line = b'{"timestamp":1,"input_length":1,"output_length":1,"hash_ids":[%b]}' % b",".join(
        b"%d" % number for number in range(60_000)
    )
    assert len(line) > LANDED_BYTES
    assert client.ask(b"KVTIDE.TRACE", line) == b"+OK\r\n"


def test_rights_are_those_of_the_command(start_node: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "users").write_text(
        "[users.reader]\nroles = ['read']\npassword_sha256 ="
        " '2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b'\n"  # "secret"
    )
    port = start_node("--dram", "64Mi", "--users", str(tmp_path / "users")).port
    with closing(Client(port)) as stranger:
        assert stranger.ask(b"GET", LARGE) == b"-ERR Protocol error: unauthenticated bulk length\r\n"
    client = Client(port)
    assert client.ask(b"GET", LARGE[:1000]) == b"-NOAUTH Authentication required.\r\n"
    assert client.ask(b"AUTH", b"reader", b"secret") == b"+OK\r\n"
    assert client.ask(b"GET", LARGE).startswith(b"-ERR argument 1 of 'get'")
    assert client.ask(b"SET", b"k", LARGE).endswith(b"the role 'write'\r\n")
    assert client.ask(b"KVTIDE.TOPOLOGY", LARGE).endswith(b"the role 'admin'\r\n")
    assert client.ask(b"PING") == b"+PONG\r\n"
    client.close()
