"""Kill -9 under writes, over and over: no wrong byte is ever served; lost is what was not on the SSD yet.

    python -m benches.crash [--kills 100] [--directory DIR] [--json]

Each round starts the node on the directory that the last one left, reads every key and compares it, then
sets, overwrites, reads and deletes keys on several connections until the node is killed at a random moment. A
key then has the version that was acknowledged last, or the one that was on its way, or (it was in DRAM only)
none: never an older one, and nothing after an acknowledged DEL.
"""

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import redis

KEYS = 600
CONNECTIONS = 3
LONGEST_RUN_S = 0.8
GONE = -1


def value_of(key: int, version: int) -> bytes:
    rng = random.Random(key * 1_000_003 + version)
    return b"%d:%d:" % (key, version) + rng.randbytes(1024) * rng.choice((1, 40, 100))


def start(directory: Path) -> tuple["subprocess.Popen[str]", int, float]:
    """A node, its port, and the seconds until it served."""
    began_s = time.monotonic()
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--listen", "127.0.0.1:0"]
    command += ["--admin", "127.0.0.1:0", "--dram", "4Mi", "--ssd", "512Mi", "--ssd-path", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    return process, int(said["listen"].rpartition(":")[2]), time.monotonic() - began_s


class Writer(threading.Thread):
    """Has its own share of the keys. ``possible`` says which versions a key may have now.

    ``newest`` is the highest version of a key so far: none is ever used twice.
    """

    def __init__(
        self, port: int, share: int, seed: int, possible: dict[int, set[int]], newest: dict[int, int]
    ) -> None:
        super().__init__()
        self.port, self.share, self.rng = port, share, random.Random(seed)
        self.possible, self.newest = possible, newest
        self.operations = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        try:
            with redis.Redis(port=self.port, socket_timeout=10) as client:
                while True:
                    self.step(client, self.rng.randrange(self.share, KEYS, CONNECTIONS))
                    self.operations += 1
        except (redis.RedisError, OSError):
            return  # the node was killed

    def step(self, client: redis.Redis, key: int) -> None:
        possible, action = self.possible[key], self.rng.random()
        if action < 0.55:
            version = self.newest[key] = self.newest[key] + 1
            possible.add(version)
            client.set(f"k{key}", value_of(key, version))
            self.possible[key] = {version}
        elif action < 0.65:
            possible.add(GONE)
            client.delete(f"k{key}")
            self.possible[key] = {GONE}
        else:
            value = client.get(f"k{key}")
            assert not isinstance(value, str), "replies are not decoded"
            self.wrong += compare(key, value, possible)


def compare(key: int, value: bytes | None, possible: set[int]) -> list[str]:
    if value is None:
        return []
    version = int(value.split(b":", 2)[1])
    if version in possible and value == value_of(key, version):
        return []
    return [f"k{key} has version {version}, and only {sorted(possible)} are possible"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--directory", type=Path, default=Path())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    possible: dict[int, set[int]] = {key: {GONE} for key in range(KEYS)}
    newest = dict.fromkeys(range(KEYS), 0)
    wrong: list[str] = []
    starts_s, operations, known, found = [], 0, 0, 0
    with tempfile.TemporaryDirectory(dir=options.directory) as path:
        for _ in range(options.kills):
            process, port, start_s = start(Path(path))
            starts_s.append(start_s)
            with redis.Redis(port=port) as client:
                for key in range(KEYS):
                    value = client.get(f"k{key}")
                    wrong += compare(key, value, possible[key])
                    known += possible[key] != {GONE}
                    found += value is not None
            writers = [
                Writer(port, share, rng.randrange(2**32), possible, newest) for share in range(CONNECTIONS)
            ]
            for writer in writers:
                writer.start()
            time.sleep(rng.uniform(0.05, LONGEST_RUN_S))
            process.send_signal(signal.SIGKILL)
            process.wait()
            for writer in writers:
                writer.join()
                operations += writer.operations
                wrong += writer.wrong
    figures = {
        "kills": options.kills,
        "operations": operations,
        "wrong": len(wrong),
        "found_share": found / max(known, 1),
        "start_median_s": statistics.median(starts_s),
        "start_max_s": max(starts_s),
    }
    print(
        json.dumps(figures)
        if options.json
        else "\n".join(f"{name:16} {value}" for name, value in figures.items())
    )
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
