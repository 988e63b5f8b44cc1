"""Disks that fail: at every call, in every way, the log answers with a type and never with a wrong byte."""

import asyncio
import errno
import shutil

import pytest

from kvtide_cachenode.store.ssd.files import SsdLogError
from kvtide_cachenode.store.ssd.limits import Limits
from kvtide_cachenode.store.ssd.log import SsdLog
from kvtide_cachenode.store.ssd.results import Miss, Refusal, Refused, Stored

from .conftest import keys_of

MIB = 1 << 20
CAP = 6 * MIB  # a few rounds of the workload fill it, so that cleaning is in it


class Story:
    """A workload that knows which values each key may have now, and after a kill."""

    def __init__(self, log, content, target):
        self.log = log
        self.content = content
        self.target = target
        self.version = 0
        self.latest = {}

    async def play(self, clock):
        for step in range(32):
            clock.now_s += 1
            key = b"key-%d" % (step * 7 % 13)
            if step % 9 == 8:
                await self.log.delete(key)
                self.latest[key] = None
            else:
                self.version += 1
                value = self.content(key, self.version, 20_000 + step * 14_000)
                result = await self.log.put(key, memoryview(value), 0)
                self.latest[key] = value if isinstance(result, Stored) else None
            await self.look(b"key-%d" % (step * 5 % 13))
            if step % 15 == 14:
                clock.now_s += 61
                await self.log.maintain()
        self.log.check()

    async def look(self, key):
        result = await self.log.get_into(key, self.target)
        if isinstance(result, int):
            assert self.target[:result] == self.latest[key], "a value that is not the key's latest"

    async def look_at_all(self):
        for key in self.latest:
            await self.look(key)


CASES = [
    ("open", errno.EIO),
    ("open", errno.ENOSPC),
    ("pwritev", errno.EIO),
    ("pwritev", errno.ENOSPC),
    ("pwritev", "short"),
    ("preadv", errno.EIO),
    ("preadv", "short"),
    ("fdatasync", errno.EIO),
    ("replace", errno.EIO),
    ("unlink", errno.EIO),
    ("status", errno.EIO),
]


@pytest.mark.parametrize(("operation", "kind"), CASES)
async def test_each_single_call_may_fail(
    memory_path, clock, content, target, crashed, faulty_files, operation, kind
):
    """Fail the nth call for n = 1, 2, 3, ... (wider apart later) until the story ends without reaching it."""
    defects = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: defects.append(context))
    nth, reached = 1, True
    while reached:
        path, copy = memory_path / "log", memory_path / "crashed"
        files = faulty_files(operation, nth, kind)
        try:
            log = await SsdLog.open(path, CAP, clock, files=files)
        except SsdLogError:
            assert files.failed
        else:
            story = Story(log, content, target)
            await story.play(clock)
            await crashed(log, path, copy)
            await log.close()
            reached = files.failed > 0
            for restarted in (copy, path):
                story.log = await SsdLog.open(restarted, CAP, clock)
                await story.look_at_all()
                story.log.check()
                await story.log.close()
        shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(copy, ignore_errors=True)
        nth += 1 if nth < 6 else 11
    assert nth > 2, f"the story has no {operation}"
    assert not defects, "what a device does is no defect of the node"


@pytest.mark.parametrize(("operation", "kind"), [case for case in CASES if case[0] != "open"])
async def test_calls_may_fail_for_good(memory_path, clock, content, target, faulty_files, operation, kind):
    files = faulty_files(operation, 1, kind, times=1 << 30)
    files.armed = False
    log = await SsdLog.open(memory_path, CAP, clock, files=files)
    story = Story(log, content, target)
    await story.play(clock)
    files.armed = True
    await story.play(clock)
    files.armed = False
    clock.now_s += 120
    await story.play(clock)
    result = await log.put(b"after", memoryview(b"well again"), 0)
    assert isinstance(result, Stored)
    await log.close()


async def test_errors_in_a_row_make_it_read_only_for_a_while(tmp_path, clock, target, faulty_files):
    files = faulty_files("pwritev", 1, errno.EIO, times=1 << 30)
    files.armed = False
    log = await SsdLog.open(tmp_path, 64 * MIB, clock, files=files)
    value = memoryview(b"v" * 5000)
    assert isinstance(await log.put(b"k", value, 0), Stored)
    files.armed = True
    reasons = [(await log.put(b"%d" % n, value, 0)).reason for n in range(8)]
    assert set(reasons[:5]) <= {Refusal.IO_ERROR, Refusal.READ_ONLY}
    assert reasons[-1] is Refusal.READ_ONLY
    assert log.stats().read_only
    calls = files.calls
    assert await log.put(b"x", value, 0) == Refused(Refusal.READ_ONLY)
    assert files.calls == calls, "the disk is left alone"
    files.armed = False
    assert await log.put(b"x", value, 0) == Refused(Refusal.READ_ONLY)
    clock.now_s += 61
    assert isinstance(await log.put(b"x", value, 0), Stored)
    assert not log.stats().read_only
    assert log.stats().counters["write_errors"] >= 5
    await log.close()


async def test_full_disk_is_a_smaller_cap(tmp_path, clock, faulty_files):
    """When the disk is full below the cap, old segments make way as they do at the cap."""
    files = faulty_files("pwritev", 60, errno.ENOSPC, times=1)
    log = await SsdLog.open(tmp_path, 64 * MIB, clock, files=files)
    results = [await log.put(b"%d" % n, memoryview(bytes(100_000)), 0) for n in range(150)]
    refused = [result for result in results if isinstance(result, Refused)]
    assert refused == [Refused(Refusal.NO_SPACE)]
    assert log.stats().counters["evicted"] > 50
    assert log.stats().used_bytes < 8 * MIB
    clock.now_s += 61
    for number in range(150):
        assert isinstance(await log.put(b"again-%d" % number, memoryview(bytes(100_000)), 0), Stored)
    assert log.stats().used_bytes > 12 * MIB
    await log.close()


async def test_slow_disk(tmp_path, clock, target, pages, content, crashed, faulty_files):
    files = faulty_files()
    limits = Limits(
        read_threads=1, write_threads=1, read_deadline_s=0.05, write_deadline_s=0.05, reads_waiting=3
    )
    value = pages(100_000)
    value[:] = content(b"k", 1, 100_000)
    log = await SsdLog.open(tmp_path / "a", 64 * MIB, clock)
    assert isinstance(await log.put(b"k", value, 0), Stored)
    await log.close()
    log = await SsdLog.open(tmp_path / "a", 64 * MIB, clock, files=files, limits=limits)
    files.gate.clear()
    reads = await asyncio.gather(*(log.get_into(b"k", target) for _ in range(5)))
    assert [read.reason for read in reads].count(Miss.SLOW) == 3
    assert [read.reason for read in reads].count(Miss.QUEUE_FULL) == 2
    busy = [read.settled for read in reads if read.settled is not None]
    assert len(busy) == 1, "of one thread's reads one has begun; the others will never touch the target"
    writes = [asyncio.create_task(log.put(key, value, 0)) for key in (b"late", b"later")]
    await asyncio.wait(writes, timeout=0.5)  # their deadlines are short; the flush of their marks still hangs
    value[:] = content(b"x", 9, 100_000)  # the caller reuses memory whose write was given up
    files.gate.set()
    await asyncio.wait(busy)
    assert await asyncio.gather(*writes) == [Refused(Refusal.SLOW)] * 2
    assert keys_of(log) == [b"k"]
    await crashed(log, tmp_path / "a", tmp_path / "b")
    await log.close()
    log = await SsdLog.open(tmp_path / "b", 64 * MIB, clock)
    assert keys_of(log) == [b"k"]
    assert await log.get_into(b"k", target) == 100_000
    assert target[:100_000] == content(b"k", 1, 100_000)
    # What comes next does not lie where a write was given up that never began, or it would be taken for dead.
    assert isinstance(await log.put(b"next", value, 0), Stored)
    await crashed(log, tmp_path / "b", tmp_path / "c")
    await log.close()
    log = await SsdLog.open(tmp_path / "c", 64 * MIB, clock)
    assert sorted(keys_of(log)) == [b"k", b"next"]
    await log.close()


async def test_cancelled_read_keeps_the_target_until_the_device_lets_go(
    tmp_path, clock, pages, content, faulty_files
):
    files = faulty_files()
    log = await SsdLog.open(tmp_path, 64 * MIB, clock, files=files)
    await log.put(b"k", memoryview(content(b"k", 1, MIB)), 0)
    files.gate.clear()
    read = asyncio.create_task(log.get_into(b"k", pages(MIB)))
    assert await asyncio.to_thread(files.held.wait, 20)  # the device has the target
    read.cancel()
    for _ in range(10):  # what the cancellation sets going; a device that answers is not part of it
        await asyncio.sleep(0)
    assert not read.done()
    files.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await read
    await log.close()


async def test_cancelled_put_leaves_nothing(tmp_path, clock, content, faulty_files):
    files = faulty_files()
    log = await SsdLog.open(tmp_path, 64 * MIB, clock, files=files)
    await log.put(b"other", memoryview(b"v"), 0)
    files.gate.clear()
    put = asyncio.create_task(log.put(b"k", memoryview(content(b"k", 1, MIB)), 0))
    assert await asyncio.to_thread(files.held.wait, 20)
    put.cancel()
    files.gate.set()
    await asyncio.wait([put])
    assert keys_of(log) == [b"other"]
    await log.close()
    log = await SsdLog.open(tmp_path, 64 * MIB, clock)
    assert keys_of(log) == [b"other"]
    await log.close()
