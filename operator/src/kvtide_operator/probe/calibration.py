"""Two minutes of measured requests: prompts of many lengths, then answers in batches.

Prompts are random token ids that no other prompt begins with. The time of a prefill is the engine's own, from
scheduling to the first token (``vllm:request_prefill_time_seconds``); what the client waits besides is the
`Calibration.overhead_s` of a request. The time of a decode step is that between the tokens that a client gets
while exactly so many answers are made.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from kvtide_operator.probe.counters import Counters
from kvtide_operator.probe.engine import Engine, EngineError
from kvtide_operator.simulate.engine.fit import Sample, Step, chunks

PREFILL_SHARE: Final = 0.6
"""Of the time; answers get the rest."""
LONGEST_SHARE: Final = 0.12
"""Of the prefills' time, the most that the longest prompt may take: it is measured several times."""
LEAST_LONGEST: Final = 256
"""Up to here prompts are measured whatever time they take."""
SHORTEST_PROMPT, LONGEST_PROMPT = 8, 131072
SHORT_CONTEXT: Final = 16
TAIL_TOKENS: Final = 48
"""New tokens of a prompt whose beginning is cached."""
MOST_BATCH: Final = 64
ANSWER_TOKENS: Final = 24
FIRST_ID, LAST_ID = 100, 30000
"""Token ids that every large model has and that none treats specially."""

_PREFILL_S = "vllm:request_prefill_time_seconds"
_OWN_HITS = "vllm:prefix_cache_hits_total"
_OTHER_HITS = "vllm:external_prefix_cache_hits_total"

Progress = Callable[[float, str], None]
"""Told the share that is done and what is being measured."""


@dataclass(slots=True)
class Calibration:
    """What was measured: samples of steps, and by request the seconds a client waits besides its prefill."""

    samples: list[Sample] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)

    @property
    def overhead_s(self) -> float:
        """Median seconds of a request before and after its prefill, on an idle engine."""
        return median(self.waits_s) if self.waits_s else 0.0


async def calibrate(
    engine: Engine, *, seconds: float, chunk_tokens: int, seed: int, progress: Progress
) -> Calibration:
    """Measure an engine that nobody else uses, for about ``seconds``.

    Args:
        engine: it.
        seconds: how long; every kind of measurement is made at least once.
        chunk_tokens: tokens of a step (vLLM's ``--max-num-batched-tokens``).
        seed: of the prompts.
        progress: told how far it is.

    Raises:
        EngineError: the engine fails, or is no vLLM.
    """
    run = _Run(engine, chunk_tokens, random.Random(seed), seconds, progress)  # noqa: S311 - no secret
    await run.warm_up()
    await run.prefills()
    await run.answers()
    return run.found


class _Run:
    def __init__(
        self, engine: Engine, chunk_tokens: int, chance: random.Random, seconds: float, progress: Progress
    ) -> None:
        self.found = Calibration()
        self._engine = engine
        self._chunk_tokens = chunk_tokens
        self._chance = chance
        self._seconds = seconds
        self._began_s = time.perf_counter()
        self._progress = progress
        self._caches = True
        self._longest = SHORTEST_PROMPT

    async def warm_up(self) -> None:
        """The first requests of an engine are slower than all later ones."""
        self._tell("warming up")
        before = await self._engine.counters()
        if f"{_PREFILL_S}_count" not in before.sums:
            raise EngineError(
                f"{self._engine.url}/metrics has no {_PREFILL_S}; calibration needs vLLM's metrics"
            )
        if running := before.sums.get("vllm:num_requests_running"):
            raise EngineError(
                f"{self._engine.url} serves {running:g} requests; calibrate an engine that is idle"
            )
        for _ in range(2):
            await self._engine.complete(self._prompt(SHORT_CONTEXT), 2)

    async def prefills(self) -> None:
        """Sweeps over lengths, until one prompt takes its share of the time; then repeated."""
        until_s = PREFILL_SHARE * self._seconds
        longest_s = until_s * LONGEST_SHARE
        lengths: list[int] = []
        for length in self._lengths():
            lengths.append(length)
            if 2.2 * await self._prefill(length) > longest_s and length >= LEAST_LONGEST:
                break
        self._longest = lengths[-1]
        while self._elapsed_s() < until_s:
            for length in lengths:
                await self._prefill(length)
                if self._elapsed_s() > until_s:
                    return

    async def answers(self) -> None:
        """Decode steps of growing batches, of short contexts and of long ones, until the time is over."""
        most = MOST_BATCH
        first = True
        while first or self._elapsed_s() < self._seconds:
            batch = 1
            while batch <= most:
                if not first and self._elapsed_s() > self._seconds:
                    return
                for context in (SHORT_CONTEXT, self._longest // 2):
                    if (context == SHORT_CONTEXT or batch in (1, 4)) and not await self._answer(
                        batch, context
                    ):
                        most = batch - 1
                batch *= 2
            first = False

    def _lengths(self) -> list[int]:
        """Doubling, with one between two as long as they fit a step."""
        most = min(self._engine.model.max_tokens - ANSWER_TOKENS, LONGEST_PROMPT)
        doubling = [SHORTEST_PROMPT << at for at in range(most.bit_length())]
        between = [length * 3 // 2 for length in doubling if length * 3 // 2 < self._chunk_tokens]
        return sorted({*(at for at in (*doubling, *between, self._chunk_tokens) if at < most), most})

    async def _prefill(self, length: int) -> float:
        """Measure a prompt, and another that begins like it if the engine caches; seconds of the first."""
        self._tell(f"prompts of {length:,} tokens")
        prompt = self._prompt(length)
        seconds = await self._first_token(prompt)
        if self._caches and length > 4 * TAIL_TOKENS and await self._hits(prompt) == 0:
            self._caches = False
        return seconds

    async def _hits(self, prompt: list[int]) -> float:
        before = await self._engine.counters()
        await self._first_token(prompt[:-TAIL_TOKENS] + self._prompt(TAIL_TOKENS))
        return (await self._engine.counters()).since(before, _OWN_HITS)

    async def _first_token(self, prompt: list[int]) -> float:
        before = await self._engine.counters()
        answer = await self._engine.complete(prompt, 1)
        after = await self._engine.counters_after(before, f"{_PREFILL_S}_count", 1)
        seconds = after.since(before, f"{_PREFILL_S}_sum")
        self._add(len(prompt), after, before, seconds)
        self.found.waits_s.append(max(answer.ttft_s - seconds, 0.0))
        return seconds

    def _add(self, tokens: int, after: Counters, before: Counters, seconds: float) -> None:
        if after.since(before, f"{_PREFILL_S}_count") > 1:
            raise EngineError(f"{self._engine.url} serves others meanwhile; calibrate an engine that is idle")
        if after.since(before, _OTHER_HITS):
            return  # loading is no prefill
        cached = int(after.since(before, _OWN_HITS))
        self.found.samples.append(Sample(chunks(tokens - cached, cached, self._chunk_tokens), seconds))

    async def _answer(self, batch: int, context: int) -> bool:
        """Measure the steps of ``batch`` answers; whether they were made together."""
        self._tell(f"{batch} answers at a time after {context:,} tokens")
        beginning = self._prompt(context - 8)
        if batch > 1 and context > SHORT_CONTEXT:
            await self._engine.complete(beginning, 1)
        own = [beginning if context > SHORT_CONTEXT else self._prompt(context - 8) for _ in range(batch)]
        # The first answer goes on until the last prompt is done.
        tokens = ANSWER_TOKENS + -(-batch * context // self._chunk_tokens)
        answers = await asyncio.gather(
            *(self._engine.complete(prompt + self._prompt(8), tokens) for prompt in own)
        )
        began_s = max(answer.tokens[0][0] for answer in answers)
        ended_s = min(answer.tokens[-1][0] for answer in answers)
        steps = max(answer.produced(began_s, ended_s) for answer in answers) if ended_s > began_s else 0
        if steps < ANSWER_TOKENS // 2:
            return False
        done = tokens - steps / 2
        one = Step(batch=batch, context=context + done)
        self.found.samples.append(Sample((one,), (ended_s - began_s) / steps))
        return True

    def _prompt(self, tokens: int) -> list[int]:
        return self._chance.choices(range(FIRST_ID, LAST_ID), k=tokens)

    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._began_s

    def _tell(self, what: str) -> None:
        self._progress(min(self._elapsed_s() / self._seconds, 1.0), what)
