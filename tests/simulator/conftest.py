"""Traces, profiles and scenarios with round numbers."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvtide_operator.simulate.engine.profile import EngineProfile
from kvtide_operator.simulate.engine.step_times import Curve, Surface, step_tables
from kvtide_operator.simulate.media import Bandwidth, MediumSpeed
from kvtide_operator.simulate.prices import Ladder, Price
from kvtide_operator.simulate.scenario import Scenario, SsdClass
from kvtide_operator.workload.trace import Trace, renumber

BLOCK_TOKENS = 100
TOKEN_BYTES = 10
BLOCK_BYTES = BLOCK_TOKENS * TOKEN_BYTES

COMPILE_TIMEOUT_S = 240
"""The first test to run the engines compiles them: about 20 s on an idle core, longer on a busy one."""

Request = tuple[float, int, int, Sequence[int]]
"""Arrival in seconds, input tokens, output tokens, block ids."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(COMPILE_TIMEOUT_S))


def _trace(requests: Sequence[Request], **fields: Any) -> Trace:
    ids = [block for _, _, _, blocks in requests for block in blocks]
    blocks, block_ids = renumber(np.array(ids, dtype=np.int64))
    return Trace(
        arrival_s=np.array([r[0] for r in requests], dtype=np.float64),
        input_tokens=np.array([r[1] for r in requests], dtype=np.int32),
        output_tokens=np.array([r[2] for r in requests], dtype=np.int32),
        block_start=np.cumsum([0, *(len(r[3]) for r in requests)]),
        blocks=blocks,
        block_ids=block_ids,
        weight=np.ones(len(requests)),
        block_tokens=BLOCK_TOKENS,
        **fields,
    )


def _profile(token_s: float = 0.001, context_s: float = 0.0, *, kv_tokens: int = 100_000) -> EngineProfile:
    """A step takes ``token_s`` per token, and ``context_s`` per token of context of each that decodes."""
    ends = np.array([0.0, 100_000.0])
    batches = np.array([0.0, 1000.0])
    return EngineProfile(
        model="toy",
        system="toy",
        engine="vllm",
        engine_version="0",
        gpus=2,
        layers=4,
        kv_capacity_tokens=kv_tokens,
        source="by hand",
        date="2026-11-21",
        tables=step_tables(
            Curve(ends, ends * token_s),
            Surface(ends, ends, np.zeros((2, 2))),
            Surface(batches, ends, np.outer(batches, ends) * context_s),
        ),
    )


def _price(per_gib_hour: str) -> Price:
    return Price("USD", Ladder.up_to("price.capacity", [(None, Decimal(per_gib_hour))]))


def _ssd(bytes_s: float, **fields: Any) -> SsdClass:
    return SsdClass(_price("0.1"), MediumSpeed(Bandwidth(bytes_s), Bandwidth(bytes_s), **fields))


def _scenario(trace: Trace, **fields: Any) -> Scenario:
    """No GPU cache unless asked for; loads and the SSD named ``fast`` take next to no time."""
    defaults: dict[str, Any] = {
        "profile": _profile(),
        "kv_bytes_per_token": TOKEN_BYTES,
        "dram_price": _price("1.0"),
        "gpu_hour": 3.0,
        "gpu_cache_bytes": 0,
        "load_bytes_s": 1e15,
        "chunk_tokens": 1000,
        "max_sequences": 8,
        "ssd_classes": {"fast": _ssd(1e15)},
        "reload": "async",
    }
    return Scenario(trace=trace, **(defaults | fields))


@pytest.fixture(scope="session")
def make_trace() -> Callable[..., Trace]:
    return _trace


@pytest.fixture(scope="session")
def make_profile() -> Callable[..., EngineProfile]:
    return _profile


@pytest.fixture(scope="session")
def make_ssd() -> Callable[..., SsdClass]:
    return _ssd


@pytest.fixture(scope="session")
def make_scenario() -> Callable[..., Scenario]:
    return _scenario


@pytest.fixture(scope="session")
def conversation() -> Trace:
    """The Mooncake conversation trace, where it lies beside the repository."""
    path = Path(__file__).parents[3] / "shared" / "traces" / "mooncake_conversation.jsonl"
    if not path.exists():
        pytest.skip(f"no trace at {path}")
    from kvtide_operator.workload.readers import read_trace

    return read_trace(path)
