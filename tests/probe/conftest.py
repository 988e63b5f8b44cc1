"""A stand-in for vLLM: an HTTP server whose steps take known times, which its metrics say exactly."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

CHUNK_TOKENS = 64
BLOCK_TOKENS = 16
FIXED_S, TOKEN_S, PAIR_S = 0.02, 1e-3, 2e-6
MAX_SEQUENCES = 4
MAX_MODEL_TOKENS = 600


def step_s(new: int, cached: int, batch: int) -> float:
    """Known times: fixed + per token + per pair of tokens that attend."""
    return FIXED_S + TOKEN_S * (new + batch) + PAIR_S * new * (cached + (new + 1) / 2)


@dataclass
class StandIn:
    """Prefills one request after the other, at once; decodes all together, in real time."""

    url: str = ""
    caches: bool = True
    exposes: bool = True
    running: int = 0
    prefills: int = 0
    prefill_s: float = 0.0
    hits: int = 0
    prompts: list[list[int]] = field(default_factory=list)
    decoding: int = 0
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_SEQUENCES))

    def cached_tokens(self, prompt: list[int]) -> int:
        if not self.caches:
            return 0
        longest = 0
        for known in self.prompts:
            same = next(
                (at for at, (a, b) in enumerate(zip(prompt, known, strict=False)) if a != b), len(known)
            )
            longest = max(longest, min(same, len(prompt) - 1) // BLOCK_TOKENS * BLOCK_TOKENS)
        return longest

    async def models(self, _: web.Request) -> web.Response:
        card = {"id": "toy", "root": "maker/SmolLM2-135M", "max_model_len": MAX_MODEL_TOKENS}
        return web.json_response({"object": "list", "data": [card]})

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def metrics(self, _: web.Request) -> web.Response:
        if not self.exposes:
            return web.Response(text="# nothing\n")
        who = '{engine="0",model_name="toy"}'
        return web.Response(
            text=f"vllm:num_requests_running{who} {self.running}\n"
            f"vllm:request_prefill_time_seconds_count{who} {self.prefills}\n"
            f"vllm:request_prefill_time_seconds_sum{who} {self.prefill_s!r}\n"
            f"vllm:prefix_cache_hits_total{who} {self.hits}\n"
            f"vllm:external_prefix_cache_hits_total{who} 0\n"
            f'vllm:cache_config_info{{block_size="{BLOCK_TOKENS}",num_gpu_blocks="100",engine="0"}} 1\n'
        )

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        prompt, tokens = asked["prompt"], asked["max_tokens"]
        reply = web.StreamResponse()
        await reply.prepare(request)
        async with self.room:
            cached = self.cached_tokens(prompt)
            self.hits += cached
            for done in range(cached, len(prompt), CHUNK_TOKENS):
                self.prefill_s += step_s(min(CHUNK_TOKENS, len(prompt) - done), done, 0)
            self.prefills += 1
            self.prompts.append(prompt)
            self.decoding += 1
            for made in range(1, tokens + 1):
                if made > 1:
                    await asyncio.sleep(step_s(0, 0, self.decoding))
                chunk = {"choices": [{"text": "x"}], "usage": {"completion_tokens": made}}
                await reply.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            self.decoding -= 1
        await reply.write(b"data: [DONE]\n\n")
        return reply


@pytest.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    engine = StandIn()
    app = web.Application()
    app.router.add_get("/v1/models", engine.models)
    app.router.add_get("/version", engine.version)
    app.router.add_get("/metrics", engine.metrics)
    app.router.add_post("/v1/completions", engine.complete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.addresses
    engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield engine
    await runner.cleanup()
