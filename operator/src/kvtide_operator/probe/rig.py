"""A real engine and the node behind it: emptied, resized, played at, and measured."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from kvtide_cachenode.contract.client import NodeClient
from kvtide_cachenode.contract.messages import NodeStatus
from kvtide_cachenode.wire.resp_client import encode
from kvtide_operator.probe.engine import Answer, Engine
from kvtide_operator.replay.target_connection import TargetConnection
from kvtide_operator.replay.targets import parse_targets
from kvtide_operator.simulate.engine.profile import EngineProfile
from kvtide_operator.workload.readers.node import read_node_lines
from kvtide_operator.workload.trace import Trace

TRACE_TIMEOUT_S: Final = 20.0
"""How long the last requests' trace lines may take to reach the node, and blocks to be stored."""
LOADS: Final = 3
"""Loads that are measured; their median counts."""
LEAST_LOAD_S: Final = 1e-5
_LOADED = "vllm:kvtide_load_blocks_total"
_LOAD_S, _WAIT_S = "vllm:kvtide_load_seconds_total", "vllm:kvtide_load_wait_seconds_total"


class ValidationError(Exception):
    """The set-up does not allow a comparison; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the simulator is told of engine and node besides the trace.

    Attributes:
        profile: step times that were measured before.
        overhead_s: seconds of a request outside the engine's steps.
        chunk_tokens: tokens of a step.
        max_sequences: requests in a batch.
        block_tokens: tokens of a block.
        entry_bytes: bytes of a block in the node.
        load_bytes_s: bytes a second of a load from the node's DRAM into the engine.
        ssd_bytes_s: bytes a second of reading and writing the node's SSD.
        own_cache: whether the engine caches prefixes itself.
    """

    profile: EngineProfile
    overhead_s: float
    chunk_tokens: int
    max_sequences: int
    block_tokens: int
    entry_bytes: int
    load_bytes_s: float
    ssd_bytes_s: float
    own_cache: bool


class Rig:
    """An engine and the node behind it."""

    def __init__(self, engine: Engine, node: NodeClient) -> None:
        self.engine = engine
        self.node = node

    async def empty(self, dram_bytes: int, ssd_bytes: int) -> NodeStatus:
        """Make the node hold nothing, in tiers of these sizes; 0 bytes of SSD keep nothing there.

        Raises:
            NodeError: it does not.
        """
        status = await self.node.status()
        (target,) = parse_targets(f"redis://{status.listen}")
        connection = await TargetConnection.open_to(target)
        try:
            await connection.ask([encode(b"FLUSHALL")])
        finally:
            connection.close()
        has_ssd = "ssd" in status.tiers
        if ssd_bytes and not has_ssd:
            raise ValidationError(f"{self.node.url} has no SSD tier; start it with --ssd and --ssd-path")
        return await self.node.set_capacity(dram_bytes=dram_bytes, ssd_bytes=ssd_bytes if has_ssd else None)

    async def play(
        self, prompts: Sequence[list[int]], arrivals_s: Sequence[float], output_tokens: int, salt: str
    ) -> list[Answer]:
        """Send requests at their moments, whatever became of those before; answers in the same order.

        ``salt`` keeps their blocks apart from those of other runs.
        """
        began_s = time.perf_counter()

        async def one(prompt: list[int], arrival_s: float) -> Answer:
            await asyncio.sleep(max(began_s + arrival_s - time.perf_counter(), 0.0))
            return await self.engine.complete(prompt, output_tokens, cache_salt=salt)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*each)) for each in zip(prompts, arrivals_s, strict=True)]
        return [task.result() for task in tasks]

    async def trace_end(self) -> str:
        """Where the node's trace ends now."""
        return (await self.node.status()).trace.next

    async def trace_since(self, cursor: str, requests: int, block_tokens: int) -> Trace:
        """What the engine reported since ``cursor``.

        Raises:
            ValidationError: not every request was reported.
        """
        deadline_s = time.monotonic() + TRACE_TIMEOUT_S
        lines = b""
        while True:
            page = await self.node.trace(cursor)
            lines, cursor = lines + page.lines, page.next
            if page.lines:
                continue
            trace = read_node_lines(lines, block_tokens=block_tokens)
            told = 0 if trace is None or trace.hit_blocks is None else trace.requests
            if trace is not None and told == requests:
                return trace
            if time.monotonic() > deadline_s or told > requests:
                raise ValidationError(
                    f"the engine reported {told} of {requests} requests to {self.node.url}; run"
                    " KvtideConnector with this node alone and its option trace on, and no other requests"
                )
            await asyncio.sleep(0.2)


async def measured_node(rig: Rig, setup: Setup, prompt: list[int]) -> Setup:
    """The set-up with the size of an entry and the speed of loads, from a prompt that is stored and loaded.

    Args:
        rig: where to measure.
        setup: what is known so far.
        prompt: of a few full blocks and some tokens more, new to the engine.

    Raises:
        ValidationError: it is not stored, or not loaded.
    """
    blocks = (len(prompt) - 1) // setup.block_tokens
    before = (await rig.node.status()).tiers["dram"]
    await rig.engine.complete(prompt, 1)
    deadline_s = time.monotonic() + TRACE_TIMEOUT_S
    while (now := (await rig.node.status()).tiers["dram"]).entries < before.entries + blocks:
        if time.monotonic() > deadline_s:
            raise ValidationError(
                f"{rig.engine.url} stores nothing in {rig.node.url}; run KvtideConnector with this node"
            )
        await asyncio.sleep(0.05)
    entry_bytes = (now.used_bytes - before.used_bytes) // (now.entries - before.entries)
    times_s: list[float] = []
    for _ in range(LOADS):
        if setup.own_cache and not await rig.engine.forget():
            raise ValidationError(
                f"{rig.engine.url} does not forget what it holds; start it with VLLM_SERVER_DEV_MODE=1"
            )
        hits = await rig.engine.counters()
        await rig.engine.complete(prompt, 1)
        loaded = await rig.engine.counters_after(hits, _LOADED, blocks)
        if loaded.since(hits, _LOADED) < blocks:
            raise ValidationError(
                f"{rig.engine.url} has no {_LOADED}, or loads not all; run vLLM with KvtideConnector"
            )
        # After the load the step that was running goes on: the simulator plays that wait itself.
        times_s.append(loaded.since(hits, _LOAD_S) - loaded.since(hits, _WAIT_S))
    load_s = max(median(times_s), LEAST_LOAD_S)
    return replace(setup, entry_bytes=entry_bytes, load_bytes_s=blocks * entry_bytes / load_s)
