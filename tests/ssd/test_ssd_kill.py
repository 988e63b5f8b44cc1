"""kill -9 in the middle of writes, again and again: no wrong byte, nothing acknowledged is lost."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvtide_cachenode.store.ssd.log import SsdLog

KILLS = 12
MIB = 1 << 20
# (cap, lengths): where nothing is ever evicted, everything acknowledged must be there; under a small cap
# cleaning is what gets killed, and an entry may also be missing.
CASES = {"roomy": (1024 * MIB, "40,5000,70000"), "tight": (48 * MIB, "40,5000,70000,600000")}
# Writes keys in several tasks, and says on its output what is begun and what is acknowledged.
CHILD = """
import asyncio, random, sys, time
from pathlib import Path
from kvtide_cachenode.store.ssd.log import SsdLog
from kvtide_cachenode.store.ssd.results import Stored

def content(key, version, length):
    unit = b"%-20s%012d" % (key[:20], version)
    return (unit * (length // 32 + 1))[:length]

async def work(log, chance, number):
    version = int(sys.argv[3])
    while True:
        key = b"%d-%d" % (number, chance.randrange(12))
        version += 1
        if chance.random() < 0.15:
            print("try", key.decode(), version, 0, flush=True)
            await log.delete(key)
            print("del", key.decode(), version, 0, flush=True)
            continue
        length = chance.choice([int(length) for length in sys.argv[5].split(",")])
        print("try", key.decode(), version, length, flush=True)
        if isinstance(await log.put(key, memoryview(content(key, version, length)), 0), Stored):
            print("put", key.decode(), version, length, flush=True)

async def main():
    log = await SsdLog.open(Path(sys.argv[1]), int(sys.argv[4]), time.time)
    chance = random.Random(int(sys.argv[2]))
    tasks = [asyncio.create_task(work(log, chance, number)) for number in range(4)]
    while True:
        await asyncio.sleep(0.05)
        await log.maintain()

asyncio.run(main())
"""


@pytest.mark.parametrize("case", CASES)
async def test_kill_while_writing(tmp_path, target, content, case):
    cap, lengths = CASES[case]
    chance = random.Random(20)
    latest: dict[bytes, tuple[str, int, int]] = {}
    for kill in range(KILLS):
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                CHILD,
                str(tmp_path / "log"),
                str(kill),
                str(kill * 1_000_000),
                str(cap),
                lengths,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(3)]
        time.sleep(chance.uniform(0.0, 0.25))  # the moment of the kill: any will do, none is waited for
        child.send_signal(signal.SIGKILL)
        said += child.communicate()[0].splitlines()
        attempted: dict[bytes, int] = {}
        for line in said:
            words = line.split()
            if len(words) != 4:
                continue  # cut off by the kill
            key, version, length = words[1].encode(), int(words[2]), int(words[3])
            if words[0] == "try":
                attempted[key] = version
            else:
                latest[key] = (words[0], version, length)
        await verify(tmp_path / "log", cap, latest, attempted, target, content, may_evict=case == "tight")
    assert len(latest) > 30


async def verify(path: Path, cap, latest, attempted, target, content, *, may_evict):
    """Each key has its last acknowledged value or, if one was on its way, that one."""
    log = await SsdLog.open(path, cap, time.time)
    assert may_evict or log.stats().used_bytes < cap / 2, "too small a cap for this case"
    for key, (action, version, _) in latest.items():
        under_way = attempted.get(key, 0) > version
        found = await log.get_into(key, target)
        if not isinstance(found, int):
            assert action == "del" or under_way or may_evict, f"{key!r} version {version} is lost"
            latest[key] = ("del", version, 0)
            continue
        assert action == "put" or under_way, f"{key!r} is back after its deletion"
        found_version = int(bytes(target[20:32]))
        assert target[:found] == content(key, found_version, found)
        assert found_version in (version, attempted.get(key, 0)), f"{key!r} has an older value"
        latest[key] = ("put", found_version, found)
    log.check()
    await log.close()
