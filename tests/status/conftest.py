"""A cache of two nodes that has all it shall have."""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kvtide_operator.act.status import status_of, written
from kvtide_operator.act.status_inputs import StatusInputs
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.steps import Pass
from kvtide_operator.decide.target import Target
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.proposal import Plan
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.world.cluster import CacheWorld, PodState, SetState
from kvtide_operator.world.nodes import NodeState

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
MIB = 1 << 20
NOW_S = 1_769_860_800.0


@functools.cache
def sample(name: str) -> str:
    return json.dumps(yaml.safe_load((ROOT / f"samples/{name}.yaml").read_text()))


def cache(name: str = "vllm-small", **spec: Any) -> TieredCache:
    document = json.loads(sample(name))
    document["metadata"] |= {"generation": 3, "namespace": "prod"}
    for field, value in spec.items():
        document["spec"].setdefault(field, {})
        document["spec"][field] |= value
    return TieredCache.model_validate(document)


def pod(ordinal: int, **changes: Any) -> PodState:
    found = PodState(
        name=f"vllm-small-{ordinal}", ordinal=ordinal, uid=f"u{ordinal}", resource_version="1",
        ip=f"10.0.0.{ordinal}", ready=True, deleting=False, template_hash="h", restarts=0,
        wanted_memory_bytes=3 * GIB, memory_bytes=3 * GIB,
    )  # fmt: skip
    return replace(found, **changes)


def node(ordinal: int, **changes: Any) -> NodeState:
    found = NodeState(f"vllm-small-{ordinal}", 2 * GIB, GIB, GIB, 1000, 2 * GIB)
    return replace(found, **changes)


STATEFUL_SET = SetState("s", "1", 2, "h", 3 * GIB, None)
WORLD = CacheWorld(
    NOW_S, STATEFUL_SET, (pod(0), pod(1)), (), {"vllm-small-0": node(0), "vllm-small-1": node(1)}
)
SETTLED = Pass(None, settled=True)


@dataclass(frozen=True)
class Simulated:
    prefix_hit_ratio: float = 0.5
    ttft_mean_s: float = 0.2
    ttft_p50_s: float = 0.1
    ttft_p99_s: float = 1.0
    throughput_tok_s: float = 100.0
    storage_cost_per_hour: float = 1.0
    cost_per_hour: float = 3.5
    ssd_bytes: int = 0
    stable: bool = True


def plan(dram_gib: int = 8, *, gain: float = 0.2, **outcome: Any) -> Plan:
    chosen = Candidate(Configuration(dram_gib * GIB), Simulated(**outcome))
    here = Candidate(Configuration(4 * GIB), Simulated(storage_cost_per_hour=2.0))
    return Plan((chosen,), chosen, True, here, gain, 9, "why")


@pytest.fixture
def seen() -> StatusInputs:
    return StatusInputs(cache=cache(), world=WORLD, target=Target(4 * GIB), done=SETTLED)


def after(seen: StatusInputs, **changes: Any) -> StatusInputs:
    """The same cache with the status that was written, and what has changed since."""
    stored = written(status_of(seen))
    body = seen.cache.model_dump(mode="json", by_alias=True) | {"status": stored}
    body["metadata"] = {"name": seen.cache.metadata.name, "generation": 3, "namespace": "prod"}
    return replace(seen, cache=TieredCache.model_validate(body), **changes)
