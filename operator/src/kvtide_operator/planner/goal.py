"""What a manifest lets the planner choose from, and what it asks for."""

from kvtide_cachenode.contract.sizing import capacity_for
from kvtide_operator.api.manifest import Manifest
from kvtide_operator.plan.search import Search
from kvtide_operator.plan.selector import Constraints
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.plan.trace_plan import PlanOptions
from kvtide_operator.simulate.configuration import Configuration


def space_of(manifest: Manifest) -> SearchSpace:
    """What the manifest lets the planner choose from, as far as its nodes can hold it; a volume a node."""
    spec = manifest.cache.spec
    capacity, ssd = spec.dram.capacity, spec.ssd
    most, nodes = capacity.max, spec.nodes
    if nodes.max_memory is not None:
        most = max(min(most, capacity_for(nodes.max_memory) * nodes.replicas.max), capacity.min)
    return SearchSpace(
        dram_min_bytes=capacity.min,
        dram_max_bytes=most,
        dram_step_bytes=capacity.step,
        ttl_min_s=ssd.ttl.min if ssd else 0.0,
        ttl_max_s=ssd.ttl.max if ssd else 0.0,
        tier_classes=ssd.classes if ssd else (),
        volumes=spec.nodes.replicas.min,
        instances=spec.engine.count,
    )


def options_of(manifest: Manifest, search: Search) -> PlanOptions:
    """The baseline is the cache as it is declared to start: its initial DRAM, no SSD."""
    spec = manifest.cache.spec
    slo, budget = spec.objective.slo.ttft, spec.objective.budget.tiers_per_hour
    return PlanOptions(
        search=search,
        constraints=Constraints(
            ttft_mean_s=slo.mean,
            ttft_p50_s=slo.p50,
            ttft_p99_s=slo.p99,
            throughput_tok_s=spec.objective.throughput.floor,
            storage_cost_per_hour=None if budget is None else float(budget),
        ),
        prefer=spec.objective.prefer,
        baseline=Configuration(spec.dram.capacity.initial, instances=spec.engine.count),
    )
