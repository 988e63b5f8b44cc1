"""Speeds of tiers and engines as a scenario has them."""

from kvtide_operator.plan.speeds import Speeds
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.engine.step_times import prefill_chunk_s
from kvtide_operator.simulate.scenario import Scenario


def speeds_of(scenario: Scenario, configuration: Configuration, ssd_bytes: int) -> Speeds:
    """The speeds at no load: what a tier reaches at best, which is what it must at least reach.

    A read of one block from SSD takes its latency, its bytes over the bandwidth of the provisioned volumes,
    and the way on from DRAM to the GPUs.

    Args:
        scenario: step times, bytes of a token and the media.
        configuration: which SSD class and how many volumes.
        ssd_bytes: provisioned over all volumes; 0 for none.
    """
    trace, chunk = scenario.trace, scenario.chunk_tokens
    dram_s = scenario.dram_block_bytes / scenario.dram_load_bytes_s
    ssd_s: float | None = None
    if configuration.tier_class is not None and ssd_bytes > 0:
        speed = scenario.ssd_classes[configuration.tier_class].speed
        bytes_s = speed.read_bytes_s(ssd_bytes, configuration.volumes)
        ssd_s = speed.latency_s + scenario.ssd_block_bytes / bytes_s + dram_s
    return Speeds(
        prefill_tokens_per_s=chunk / prefill_chunk_s(scenario.profile.tables, float(chunk), 0.0),
        dram_tokens_per_s=trace.block_tokens / dram_s,
        ssd_tokens_per_s=None if ssd_s is None else trace.block_tokens / ssd_s,
        kv_bytes_per_token=scenario.dram_block_bytes / trace.block_tokens,
    )
