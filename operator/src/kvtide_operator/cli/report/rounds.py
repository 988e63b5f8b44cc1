"""A round of the loop as one JSON object."""

from typing import Any

from kvtide_operator.api.quantity import format_quantity
from kvtide_operator.api.status import DecisionStatus, Sizes
from kvtide_operator.loop import Round
from kvtide_operator.plan.outcome import Candidate


def round_as_json(done: Round) -> dict[str, Any]:
    """What a script wants of a round: bytes, ratios, money an hour, seconds."""
    world, demand, plan, decision = done.world, done.demand, done.plan, done.decision
    return {
        "round": done.number,
        "at": round(world.at_s, 3),
        "nodes": [
            {
                "name": node.name,
                "capacity_bytes": node.capacity_bytes,
                "used_bytes": node.used_bytes,
                "resident_bytes": node.resident_bytes,
                "entries": node.entries,
                "ssd_capacity_bytes": node.ssd.capacity_bytes if node.ssd else 0,
            }
            for node in world.nodes
        ],
        "silent": {node.name: node.reason for node in world.silent},
        "capacity_bytes": world.capacity_bytes,
        "used_bytes": world.used_bytes,
        "workload": demand
        and {
            "requests": demand.requests,
            "blocks": demand.blocks,
            "prefix_hit_ratio": demand.seen_prefix_hit_ratio,
            "hit_ratio_infinite": demand.curve.hit_ratio_infinite,
        },
        "plan": plan
        and {
            "chosen": _point(plan.chosen),
            "current": _point(plan.current),
            "feasible": plan.feasible,
            "gain": plan.gain,
            "points": len(plan.frontier),
            "evaluations": plan.evaluations,
        },
        "decision": {
            "action": decision.action,
            "from": _sizes(decision.before),
            "to": _sizes(decision.after),
            "reason": decision.reason,
        },
        "resized": [
            {"node": one.node, "capacity_bytes": one.capacity_bytes, "problem": one.problem}
            for one in done.resized
        ],
        "storage_cost_per_hour": done.storage_cost_per_hour,
        "notes": done.notes,
        "steps_s": {name: round(took, 6) for name, took in done.steps_s.items()},
    }


def _point(candidate: Candidate) -> dict[str, Any]:
    outcome = candidate.outcome
    return {
        "dram_bytes": candidate.configuration.dram_bytes,
        "ssd_bytes": outcome.ssd_bytes,
        "ttl_s": candidate.configuration.ttl_s,
        "prefix_hit_ratio": outcome.prefix_hit_ratio,
        "ttft_mean_s": outcome.ttft_mean_s,
        "ttft_p99_s": outcome.ttft_p99_s,
        "throughput_tok_s": outcome.throughput_tok_s,
        "storage_cost_per_hour": outcome.storage_cost_per_hour,
        "cost_per_hour": outcome.cost_per_hour,
        "stable": outcome.stable,
    }


def round_as_text(done: Round) -> str:
    """The same in a few words."""
    world, decision = done.world, done.decision
    seen = done.demand.seen_prefix_hit_ratio if done.demand else None
    hit = f", hit ratio {seen:.1%}" if seen is not None else ""
    nodes, of_all, for_all = f"{len(world.nodes)} nodes", "", ""
    if world.silent:
        silent = ", ".join(node.name for node in world.silent)
        nodes = f"{len(world.nodes)} of {len(world.nodes) + len(world.silent)} nodes"
        of_all, for_all = f" (nothing is known of {silent})", " for all of them"
    used = f"{world.used_bytes / (1 << 20):,.0f}Mi used{hit}"
    return (
        f"round {done.number}: {format_quantity(world.capacity_bytes)} on {nodes}{of_all}, {used}, "
        f"{done.storage_cost_per_hour:.2f} an hour{for_all}; "
        f"{decision.action}{_to(decision)}: {decision.reason}"
    )


def _to(decision: DecisionStatus) -> str:
    if decision.action == "Hold":
        return ""
    ssd = f" and {format_quantity(decision.after.ssd)} of SSD" if decision.after.ssd else ""
    return f" to {format_quantity(decision.after.dram)}{ssd}"


def _sizes(sizes: Sizes) -> dict[str, Any]:
    return {"dram_bytes": sizes.dram, "ssd_bytes": sizes.ssd or 0, "ttl_s": sizes.ttl}
