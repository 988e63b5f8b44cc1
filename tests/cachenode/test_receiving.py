"""Values that arrive in pieces: room is made as they come, and what has none is refused in its turn."""

import asyncio

from .conftest import MI, InProcess


async def test_values_of_every_size_around_a_grant_come_in(served: InProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    for length in [MI - 4096, MI - 2048, MI - 1, MI, MI + 1, 2 * MI, 3 * MI + 17]:
        value = bytes([length % 251]) * length
        writer.write(
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%b\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n" % (length, value)
        )
        assert await reader.readline() == b"+OK\r\n"
        assert await reader.readline() == b"$%d\r\n" % length
        assert await reader.readexactly(length + 2) == value + b"\r\n"
        served.node.store.check()
    writer.close()
    await writer.wait_closed()


async def test_of_two_announced_values_one_is_stored_and_one_refused_in_its_turn(
    served: InProcess,
) -> None:
    length = 20 * MI  # of 32
    links = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(2)]
    for number, (_, writer) in enumerate(links):
        writer.write(b"*3\r\n$3\r\nSET\r\n$1\r\n%d\r\n$%d\r\n" % (number, length))
    for _ in range(20):
        for _, writer in links:
            writer.write(bytes(MI))
            await writer.drain()
    for _, writer in links:
        writer.write(b"\r\n*1\r\n$4\r\nPING\r\n")
    replies = [(await reader.readline(), await reader.readline()) for reader, _ in links]
    assert sorted(first[:4] for first, _ in replies) == [b"+OK\r", b"-OOM"]
    assert [second for _, second in replies] == [b"+PONG\r\n"] * 2
    assert len(served.node.store) == 1
    for _, writer in links:
        writer.close()
        await writer.wait_closed()


async def test_a_value_that_was_only_announced_evicts_next_to_nothing(served: InProcess) -> None:
    for number in range(28):
        served.node.store.put(b"%d" % number, bytes(MI))
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\nab" % (24 * MI))
    await writer.drain()
    other_reader, other = await asyncio.open_connection("127.0.0.1", served.port)
    for _ in range(50):  # what the first sent is looked at before all of these are answered
        other.write(b"*1\r\n$4\r\nPING\r\n")
        assert await other_reader.readline() == b"+PONG\r\n"
    assert len(served.node.store) >= 27
    for each in (writer, other):
        each.close()
        await each.wait_closed()
