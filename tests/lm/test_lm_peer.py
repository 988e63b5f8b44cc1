"""`lm://` over a real socket: a bounded blocking node on one side, LMCache's habits on the other."""

import socket
import struct
import threading

import pytest

from kvtide_cachenode.wire import lm

LIMIT_BYTES = 1 << 20


def serve(connection, store):
    """One connection, as the node serves it: values land in their place, hits go out in one call."""
    parser, memory = lm.RequestParser(), None
    with connection:
        while True:
            while (event := parser.next_event()) is not None:
                match event:
                    case lm.Value():
                        memory = bytearray(event.length) if event.length <= LIMIT_BYTES else None
                        parser.land(None if memory is None else memoryview(memory))
                    case lm.Put():
                        if memory is None:
                            store.pop(event.key, None)
                        else:
                            store[event.key] = memory
                    case lm.Get():
                        value = store.get(event.key, b"")
                        header = lm.found(value, len(value)) or lm.NO
                        connection.sendall(header + value[lm.METADATA_BYTES :])
                    case lm.Exist():
                        connection.sendall(lm.YES if event.key in store else lm.NO)
                    case lm.Health():
                        connection.sendall(lm.YES)
                    case lm.Broken():
                        return
            count = connection.recvmsg_into(parser.buffers())[0]
            if count == 0:
                return
            parser.received(count)


@pytest.fixture
def peer():
    store, client_and_node = {}, socket.socketpair()
    client, node = client_and_node
    client.settimeout(10)
    thread = threading.Thread(target=serve, args=(node, store))
    thread.start()
    yield client, store
    client.close()
    thread.join(10)
    assert not thread.is_alive()


def header(command, key, length=0, description=(1, 2, 0, 0, 0, 0, 0)):
    return struct.pack("<9i150s", command, length, *description, key.ljust(150))


def ask(client, command, key):
    """LMCache's client: one ``recv`` for the reply header, however many bytes that brings."""
    client.sendall(header(command, key))
    reply = client.recv(36)
    assert len(reply) == 36
    code, length, *description = struct.unpack("<9i", reply)
    payload = bytearray()
    while len(payload) < length:
        payload += client.recv(length - len(payload))
    return code, length, description, payload


def test_put_exist_get_as_lmcache_does_them(peer):
    client, _ = peer
    payload = bytes(range(251)) * 4000
    assert ask(client, 3, b"k")[0] == 400
    assert ask(client, 2, b"k") == (400, 0, [1, 2, 0, 0, 0, 0, 0], b"")
    client.sendall(header(1, b"k", len(payload), (1, 3, 0, 2, 32, 8, 1024)))
    client.sendall(payload)
    assert ask(client, 3, b"k")[0] == 200
    assert ask(client, 2, b"k") == (200, len(payload), [1, 3, 2, 32, 8, 1024, 0], payload)
    assert ask(client, 5, b"")[0] == 200


def test_puts_without_a_pause_then_gets(peer):
    client, store = peer
    for number in range(50):
        client.sendall(header(1, b"k%d" % number, number * 100) + bytes([number]) * (number * 100))
    for number in range(50):
        assert ask(client, 2, b"k%d" % number)[3] == bytes([number]) * (number * 100)
    assert len(store) == 50


def test_a_value_above_the_limit_is_not_stored_and_the_connection_lives(peer):
    client, _ = peer
    client.sendall(header(1, b"big", 2 * LIMIT_BYTES) + b"\x01" * (2 * LIMIT_BYTES))
    assert ask(client, 3, b"big")[0] == 400
    assert ask(client, 5, b"k")[0] == 200


def test_list_is_ignored_and_the_next_request_answered(peer):
    client, _ = peer
    client.sendall(header(4, b"k"))
    assert ask(client, 5, b"k")[0] == 200


def test_nonsense_closes_the_connection_without_a_reply(peer):
    client, _ = peer
    client.sendall(b"GET / HTTP/1.1\r\nHost: cache\r\n\r\n".ljust(186))
    assert client.recv(36) == b""


def test_a_put_cut_off_in_the_middle_stores_nothing(peer):
    client, store = peer
    client.sendall(header(1, b"half", 1000) + b"x" * 400)
    client.shutdown(socket.SHUT_WR)
    assert client.recv(36) == b""
    assert not store
