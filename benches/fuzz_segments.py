"""A log's directory, damaged: opening it never fails, and what it serves was once stored under that key."""

import hashlib
import mmap
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from kvtide_cachenode.store.ssd.log import SsdLog

CAP_BYTES: Final = 32 << 20
KEYS: Final = 40
VERSIONS: Final = 3
LARGEST_BYTES: Final = 60_000
NOW_S: Final = 1_800_000_000.0
PAGE_BYTES: Final = 4096


def content(key: bytes, version: int) -> bytes:
    """The value of a key's version: which it is, and how long, can be told from any of its bytes' run."""
    seed = hashlib.sha256(b"%b/%d" % (key, version)).digest()
    length = int.from_bytes(seed[:4]) % LARGEST_BYTES
    return (seed * (length // len(seed) + 1))[:length]


class DamagedLog:
    """One good log; `run` damages a copy of it and looks at what that serves."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="kvtide-fuzz-"))
        self._target = memoryview(mmap.mmap(-1, 1 << 20))

    async def make(self, rng: random.Random) -> None:
        """Fill the good log, with and without a snapshot behind some of its records."""
        now_s = NOW_S
        log = await SsdLog.open(self._folder / "good", CAP_BYTES, lambda: now_s)
        for step in range(KEYS * VERSIONS):
            key = b"key-%d" % rng.randrange(KEYS)
            if rng.random() < 0.15:
                await log.delete(key)
            else:
                await log.put(key, memoryview(content(key, rng.randrange(VERSIONS))), 0)
            if step == KEYS:
                now_s += 61
                await log.maintain()
        await log.flush()
        shutil.copytree(self._folder / "good", self._folder / "killed")
        await log.close()

    async def run(self, rng: random.Random) -> None:
        """Open one damaged copy and read every key.

        Raises:
            AssertionError: it serves what was never stored under that key.
        """
        path = self._folder / "damaged"
        shutil.copytree(self._folder / rng.choice(["good", "killed"]), path)
        try:
            for _ in range(rng.choice([1, 1, 2, 5])):
                damage(rng, rng.choice(sorted(path.iterdir())))
            log = await SsdLog.open(path, CAP_BYTES, lambda: NOW_S + 120)
            began_s = time.monotonic()
            for number in range(KEYS):
                key = b"key-%d" % number
                got = await log.get_into(key, self._target)
                if isinstance(got, int):
                    value = bytes(self._target[:got])
                    stored = [content(key, version) for version in range(VERSIONS)]
                    assert value in stored, f"{key!r} gave {len(value)} bytes that nobody stored"
            assert time.monotonic() - began_s < 10
            log.check()
            await log.close()
        finally:
            shutil.rmtree(path)

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self._folder)


def damage(rng: random.Random, file: Path) -> None:
    """Flip, overwrite, swap or cut bytes of one file, or lose it."""
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data)) if data else 0
    match rng.randrange(6):
        case 0 if data:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            sizes = [1, 8, 600, PAGE_BYTES]
            data[at : at + rng.choice(sizes)] = rng.randbytes(rng.choice(sizes))
        case 2 if len(data) >= 2 * PAGE_BYTES:
            one, other = (rng.randrange(len(data) // PAGE_BYTES) * PAGE_BYTES for _ in range(2))
            page = data[one : one + PAGE_BYTES]
            data[one : one + PAGE_BYTES] = data[other : other + PAGE_BYTES]
            data[other : other + PAGE_BYTES] = page
        case 3:
            del data[at:]
        case 4:
            data[at : at + PAGE_BYTES] = bytes(PAGE_BYTES)
        case _:
            file.unlink()
            return
    file.write_bytes(data)
