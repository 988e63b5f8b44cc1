"""The log against a dictionary, with restarts and kills in between."""

import asyncio
import shutil
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvtide_cachenode.store.ssd.log import SsdLog
from kvtide_cachenode.store.ssd.results import Stored

MIB = 1 << 20
CAP = 8 * MIB
KEYS = st.integers(0, 7).map(lambda number: b"key-%d" % number)
TTL_S = 500.0


class Clock:
    def __init__(self):
        self.now_s = 1e9

    def __call__(self):
        return self.now_s


class LogMachine(RuleBasedStateMachine):
    """``model`` has the latest value of each key and its last use.

    The log may have lost a value to the cap, but what it gives is the latest; and it has it when nothing was
    ever evicted and its time is not up.
    """

    @initialize()
    def open(self):
        shared = Path("/dev/shm")
        self.base = Path(mkdtemp(dir=shared if shared.is_dir() else None))
        self.path = self.base / "0"
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.model = {}
        self.version = 0
        self.target = memoryview(bytearray(2 * MIB))
        self.log = self.reopened()

    def run(self, work):
        return self.loop.run_until_complete(work)

    def reopened(self):
        log = self.run(SsdLog.open(self.path, CAP, self.clock))
        log.set_ttl({}, TTL_S)
        return log

    def may_be_there(self, key):
        return key in self.model and self.clock.now_s < self.model[key][1] + TTL_S

    @rule(key=KEYS, length=st.sampled_from([0, 100, 5000, 70_000, 400_000]))
    def put(self, key, length):
        self.version += 1
        value = (b"%s=%09d;" % (key, self.version) * (length // 10 + 1))[:length]
        assert isinstance(self.run(self.log.put(key, memoryview(value), 0)), Stored)
        self.model[key] = (value, self.clock.now_s)

    @rule(key=KEYS)
    def get(self, key):
        result = self.run(self.log.get_into(key, self.target))
        if isinstance(result, int):
            assert self.may_be_there(key)
            value = self.model[key][0]
            assert self.target[:result] == value
            self.model[key] = (value, self.clock.now_s)
        elif self.log.stats().counters["evicted"] == 0 and not self.evicted_before:
            assert not self.may_be_there(key)

    evicted_before = False

    @rule(key=KEYS)
    def delete(self, key):
        self.run(self.log.delete(key))
        self.model.pop(key, None)

    @rule()
    def clear(self):
        self.run(self.log.clear())
        self.model.clear()

    @rule(seconds=st.sampled_from([1, 70, 300]))
    def wait(self, seconds):
        self.clock.now_s += seconds
        self.run(self.log.maintain())

    @rule()
    def restart(self):
        self.evicted_before |= self.log.stats().counters["evicted"] > 0
        self.run(self.log.close())
        self.log = self.reopened()

    @rule()
    def kill(self):
        """Leave the old process as it is and go on from a copy of what it has on the disk."""
        self.evicted_before |= self.log.stats().counters["evicted"] > 0
        self.run(self.log._cleaner.settle(5.0))
        path = self.base / str(int(self.path.name) + 1)
        shutil.copytree(self.path, path, ignore=shutil.ignore_patterns("lock"))
        self.run(self.log.close())
        shutil.rmtree(self.path)
        self.path = path
        self.log = self.reopened()
        self.evicted_before = True  # uses since the last snapshot are forgotten: entries may expire early

    @invariant()
    def books_balance(self):
        self.log.check()
        assert self.log.stats().used_bytes <= CAP

    def teardown(self):
        if hasattr(self, "log"):
            self.run(self.log.close())
            self.loop.close()
            shutil.rmtree(self.base)


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
