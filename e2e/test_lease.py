"""Leader election between real processes at a real API server: kill, pause, stop, and who wrote when."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kvtide_operator.act.kubernetes.lease import DURATION_S, JITTER, RENEW_DEADLINE_S, RETRY_S

pytestmark = pytest.mark.timeout(240)

CANDIDATE = Path(__file__).with_name("lease_candidate.py")
SLACK_S = 3.0
"""For two busy cores and a call to the API server."""


@dataclass
class Candidate:
    identity: str
    process: asyncio.subprocess.Process
    said: list[dict[str, Any]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(json.loads(line))
            self.news.set()

    async def until(self, what: str, *, after: int = 0, limit_s: float = 30.0) -> dict[str, Any]:
        """The first thing of this name said after the first ``after`` lines."""
        async with asyncio.timeout(limit_s):
            while True:
                for line in self.said[after:]:
                    if line["what"] == what:
                        return line
                self.news.clear()
                await self.news.wait()

    def writes(self) -> list[tuple[float, float]]:
        """When each write was begun and done."""
        return [(line["before_s"], line["at_s"]) for line in self.said if line["what"] == "wrote"]


@pytest.fixture
async def candidate(namespace: str) -> AsyncIterator[Callable[[str], Any]]:
    started: list[tuple[Candidate, asyncio.Task[None]]] = []

    async def start(identity: str) -> Candidate:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(CANDIDATE), namespace, "kvtide", identity, stdout=asyncio.subprocess.PIPE
        )
        made = Candidate(identity, process)
        started.append((made, asyncio.create_task(made.listen())))
        return made

    yield start
    for made, listening in started:
        if made.process.returncode is None:
            made.process.kill()
        await made.process.wait()
        await listening


def assert_never_two_writers(*candidates: Candidate) -> None:
    spans = sorted((begun, done, c.identity) for c in candidates for begun, done in c.writes())
    assert spans, "nobody ever wrote"
    for (_, done, one), (begun, _, other) in pairwise(spans):
        assert one == other or done <= begun, f"{one} and {other} wrote at the same time"


async def test_a_killed_leader_is_followed_by_the_other_within_its_lease(candidate: Any) -> None:
    first = await candidate("first")
    led = await first.until("leads")
    second = await candidate("second")
    await second.until("refused")
    await first.until("wrote", after=len(first.said))
    first.process.kill()
    killed_s = asyncio.get_running_loop().time()
    took_over = await second.until("leads", limit_s=DURATION_S + 2 * RETRY_S * JITTER + SLACK_S)
    print(f"took over {took_over['at_s'] - killed_s:.1f} s after the kill")
    # The last renewal was up to one retry before the kill.
    assert took_over["at_s"] - killed_s > DURATION_S - RETRY_S - SLACK_S
    assert took_over["term"] == led["term"] + 1
    await second.until("wrote")
    assert_never_two_writers(first, second)


async def test_a_paused_leader_writes_nothing_after_it_goes_on(candidate: Any) -> None:
    first = await candidate("first")
    await first.until("leads")
    second = await candidate("second")
    await first.until("wrote", after=len(first.said))
    first.process.send_signal(signal.SIGSTOP)
    await second.until("leads", limit_s=DURATION_S + 2 * RETRY_S * JITTER + SLACK_S)
    await second.until("wrote")
    told = len(first.said)
    first.process.send_signal(signal.SIGCONT)
    await first.until("refused", after=told)
    await first.until("lost", after=told)
    # One write may have been on its way to the server when the process was stopped.
    late = [line for line in first.said[told:] if line["what"] == "wrote"]
    assert len(late) <= 1
    await second.until("wrote", after=len(second.said))
    assert [line["what"] for line in second.said].count("leads") == 1
    first.said = [line for line in first.said if line not in late]
    assert_never_two_writers(first, second)


async def test_a_leader_that_stops_hands_over_at_once(candidate: Any) -> None:
    first = await candidate("first")
    await first.until("leads")
    second = await candidate("second")
    await second.until("refused")
    first.process.terminate()
    released = await first.until("released")
    took_over = await second.until("leads")
    assert took_over["at_s"] - released["at_s"] < RETRY_S * JITTER + SLACK_S
    assert took_over["at_s"] - released["at_s"] < RENEW_DEADLINE_S
    assert_never_two_writers(first, second)
