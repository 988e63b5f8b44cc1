"""A search for reference cycles among a million entries would hold the loop for half a second."""

import gc
import struct
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cachenode.raw_client import encoded, talk, until

from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.process.garbage import FEW_ENTRIES, search_all, search_young_only
from kvtide_cachenode.serve.connection import Connection
from kvtide_cachenode.serve.lm_connection import LmConnection
from kvtide_cachenode.serve.server import DataServer
from kvtide_cachenode.store import Store

MI = 1024 * 1024


@pytest.fixture
def searches() -> Iterator[list[int]]:
    """The generations that were searched."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    threshold = gc.get_threshold()
    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    gc.set_threshold(*threshold)
    gc.unfreeze()


def test_entries_are_not_searched(searches: list[int]) -> None:
    search_young_only()
    searches.clear()
    store = Store(256 * MI, 256 * MI, make_policy("lru"))
    for number in range(200_000):
        store.put(b"%d" % number, b"v")
    assert 0 in searches
    assert 2 not in searches
    search_all(FEW_ENTRIES + 1)
    assert 2 not in searches
    search_all(FEW_ENTRIES)
    assert searches[-1] == 2


@pytest.mark.parametrize("kind", [Connection, LmConnection])
async def test_a_closed_connection_is_gone_without_a_search(
    served: Any, monkeypatch: Any, kind: type[Connection]
) -> None:
    """Else clients that come and go would fill the memory."""
    made: list[weakref.ref[Any]] = []
    init = kind.__init__

    def note(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        made.extend([weakref.ref(self), weakref.ref(self.session)])

    monkeypatch.setattr(kind, "__init__", note)
    server = DataServer(served.node, kind)
    _, port = server.start("127.0.0.1", 0)
    half = encoded([b"SET", b"k", bytes(100_000)])[:50_000]
    said = [half, encoded([b"MGET", *[b"k"] * 3000]), b"PING\r\n", b""]
    if kind is LmConnection:
        said = [struct.pack("<9i150s", 1, MI, 1, 3, 0, 2, 32, 8, 1024, b"k".ljust(150)) + bytes(5000), b""]
    gc.disable()
    try:
        for text in said:
            async with talk(port) as (_, writer):
                writer.write(text)
                await writer.drain()
                await until(lambda: bool(served.node.sessions))
                writer.transport.abort()
            await until(lambda: not served.node.sessions)
        await until(lambda: not any(ref() for ref in made))
    finally:
        gc.enable()
        await server.stop()
    assert len(made) == 2 * len(said)
