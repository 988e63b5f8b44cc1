"""The index is written down beside the event loop: it may change meanwhile."""

import threading
from pathlib import Path

import pytest

from kvtide_cachenode.store import SsdLog
from kvtide_cachenode.store.ssd import Stored, snapshot, upkeep
from kvtide_cachenode.store.ssd.snapshot import Moment

MI = 1024 * 1024


async def test_a_snapshot_is_of_one_moment_and_made_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await SsdLog.open(tmp_path, 64 * MI, lambda: 1_000_000.0)
    threads: list[int] = []
    kept: list[bytes] = []

    def encode(of: Moment) -> memoryview:
        threads.append(threading.get_ident())
        kept.extend(of.keys)
        return snapshot.encode_snapshot(of)

    monkeypatch.setattr(snapshot, "PART_KEYS", 3)
    monkeypatch.setattr(upkeep, "encode_snapshot", encode)
    keys = [b"key-%d" % number for number in range(50)]
    for key in keys:
        assert isinstance(await log.put(key, memoryview(key * 100), 0), Stored)
    await log.delete(keys[0])
    await log.close()
    assert threads
    assert threading.get_ident() not in threads
    assert sorted(filter(None, kept)) == sorted(keys[1:])
    log = await SsdLog.open(tmp_path, 64 * MI, lambda: 1_000_000.0)
    assert [log.contains(key) for key in keys] == [False] + [True] * 49
    for key in keys[1:]:
        into = bytearray(len(key) * 100)
        assert await log.get_into(key, memoryview(into)) == len(into)
        assert into == key * 100
    await log.close()
