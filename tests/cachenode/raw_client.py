"""Bytes to a node and back, without a client library in between."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager


@asynccontextmanager
async def talk(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, closed at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what will be."""
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.005)


async def said(port: int, commands: bytes) -> bytes:
    """Everything that a node says to these commands, up to the end of the connection."""
    async with talk(port) as (reader, writer):
        writer.write(commands)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 120)


def encoded(words: Iterable[bytes]) -> bytes:
    """A command as clients send it."""
    words = list(words)
    head = b"*%d\r\n" % len(words)
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
