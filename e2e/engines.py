"""Stand-ins for engines: a workload that is played against a cache, and what engines would export of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from aiohttp import web

from kvtide_operator.replay.player import ReplayOptions, replay
from kvtide_operator.replay.report import ReplayReport, ReplayTotals
from kvtide_operator.replay.targets import Target
from kvtide_operator.workload.trace import Trace

BLOCK_TOKENS: Final = 512
BLOCKS: Final = 8
"""Of one request."""
ENGINES: Final = 8
LABELS: Final = 'model_name="e2e"'
# What the simulator has for one H100 and such requests: 7.2 ms and 20.7 us for each token that is not cached.
BASE_S: Final = 0.0072
TOKEN_S: Final = 20.7e-6


def documents(count: int, *, rate_per_s: float, duration_s: float, first: int = 0, seed: int = 1) -> Trace:
    """Requests at equal distances, each for a document of 8 blocks out of ``count``, all equally popular."""
    requests = round(rate_per_s * duration_s)
    chosen = np.random.default_rng(seed).integers(0, count, requests)
    ids = ((first + chosen)[:, None] * BLOCKS + np.arange(BLOCKS)).reshape(-1)
    order: dict[int, int] = {}
    dense = np.array([order.setdefault(block, len(order)) for block in ids.tolist()], dtype=np.int32)
    return Trace(
        arrival_s=np.arange(requests) / rate_per_s,
        input_tokens=np.full(requests, BLOCKS * BLOCK_TOKENS + 64, dtype=np.int32),
        output_tokens=np.full(requests, 16, dtype=np.int32),
        block_start=np.arange(requests + 1, dtype=np.int64) * BLOCKS,
        blocks=dense,
        block_ids=np.array(list(order), dtype=np.int64),
        weight=np.ones(requests),
        block_tokens=BLOCK_TOKENS,
    )


@dataclass
class Engines:
    """What the engines of a cache have done so far, as vLLM exports it.

    Attributes:
        url: where Prometheus finds it, HOST:PORT.
    """

    url: str = ""
    _past: list[ReplayTotals] = field(default_factory=list)
    _now: ReplayTotals = field(default_factory=ReplayTotals)

    async def play(self, trace: Trace, hosts: Sequence[str]) -> ReplayReport:
        """Play a trace at its own pace against the nodes at these addresses."""

        def count(totals: ReplayTotals) -> None:
            self._now = totals

        try:
            options = ReplayOptions(speed=1.0, connections=4)
            return await replay(trace, [Target(host, 6379) for host in hosts], options, count)
        finally:
            self._past.append(self._now)
            self._now = ReplayTotals()

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks hit and blocks asked for, so far."""
        played = (*self._past, self._now)
        return sum(one.blocks_hit for one in played), sum(one.blocks_requested for one in played)

    def text(self) -> str:
        """The metrics, in Prometheus' text format."""
        hit, asked = self.blocks
        requests = asked // BLOCKS
        ttft_sum_s = BASE_S * requests + TOKEN_S * BLOCK_TOKENS * (asked - hit)
        tokens = BLOCK_TOKENS * asked
        names = {
            "vllm:num_requests_waiting": 0.0,
            "vllm:prompt_tokens_total": tokens + 64 * requests,
            "vllm:generation_tokens_total": 16 * requests,
            "vllm:time_to_first_token_seconds_sum": ttft_sum_s,
            "vllm:time_to_first_token_seconds_count": requests,
            "vllm:prefix_cache_queries_total": tokens,
            "vllm:prefix_cache_hits_total": 0.0,
            "vllm:external_prefix_cache_queries_total": tokens,
            "vllm:external_prefix_cache_hits_total": BLOCK_TOKENS * hit,
        }
        lines = [f'{name}{{{LABELS},engine="0"}} {value}' for name, value in names.items()]
        lines += [f'vllm:num_requests_running{{{LABELS},engine="{at}"}} 1' for at in range(ENGINES)]
        return "\n".join([*lines, ""])


@asynccontextmanager
async def engines() -> AsyncIterator[Engines]:
    """Export the metrics on this machine."""
    exported = Engines()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=exported.text())

    application = web.Application()
    application.add_routes([web.get("/metrics", answer)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    exported.url = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield exported
    finally:
        await runner.cleanup()
