"""Reads the result off a simulation in which all requests were served, and checks its books."""

import numpy as np

from kvtide_operator.simulate.cache.channel import busy_s
from kvtide_operator.simulate.cache.lru import ABSENT, NEWER
from kvtide_operator.simulate.cache.ssd import DISPLACED, DROPPED, EXPIRED, HELD, PEAK, WRITTEN
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.result import Result
from kvtide_operator.simulate.scenario import Scenario
from kvtide_operator.simulate.simulation import Simulation
from kvtide_operator.simulate.sizing import Provision
from kvtide_operator.simulate.stability import is_stable

SECONDS_PER_DAY = 86400


def check_books(run: Simulation) -> None:
    """Every request was served in order, every block is in one place, and what came in went out."""
    row, engine, ssd = run.requests.row, run.batch.engine, run.ssd
    assert np.all(row.dispatch_s >= row.arrival_s)
    assert np.all(row.first_token_s > row.dispatch_s)
    assert np.all(row.finish_s >= row.first_token_s)
    assert np.all(row.device_hits + row.dram_hits + row.ssd_hits <= row.hittable)
    assert not engine.running.any()
    assert not engine.admitted.any()
    assert not engine.kv_tokens.any()
    assert not engine.context_tokens.any()
    on_ssd = ssd.links[: len(ssd.stamp_s), NEWER] != ABSENT
    assert np.count_nonzero(on_ssd) == ssd.tally[HELD]
    assert ssd.tally[WRITTEN] == ssd.tally[HELD] + ssd.tally[EXPIRED] + ssd.tally[DISPLACED]
    assert ssd.tally[HELD] <= ssd.tally[PEAK] <= ssd.cap_blocks
    if run.coupled:
        tier, blocks = run.pool.tier, len(run.requests.successor)
        in_dram = run.pool.dram[:blocks, NEWER] != ABSENT
        on_device = run.pool.device[:, :blocks, NEWER] != ABSENT
        assert np.count_nonzero(in_dram) == tier.held[-1] <= tier.capacity[-1]
        assert np.all(on_device.sum(axis=1) == tier.held[:-1])
        assert np.all(tier.held[:-1] <= tier.capacity[:-1])


def summary(
    scenario: Scenario,
    configuration: Configuration,
    ssd: Provision | None,
    run: Simulation,
    first: int,
    refused: int,
) -> Result:
    """The result of a simulation in which all requests were served.

    Args:
        scenario: what was simulated.
        configuration: what the planner chose.
        ssd: the SSD that was provisioned.
        run: what happened.
        first: the first request that counts; those before it only filled the caches.
        refused: requests that were left out, because no engine could hold them.
    """
    row, tally = run.requests.row[first:], run.ssd.tally
    requested = len(run.requests.blocks) - int(row.start[0])
    device, dram, on_ssd = (int(hits.sum()) for hits in (row.device_hits, row.dram_hits, row.ssd_hits))
    end_s = float(row.finish_s.max())
    makespan_s = end_s - float(row.arrival_s[0])
    whole_s = end_s - float(run.requests.row.arrival_s[0])
    ttft_s = row.first_token_s - row.arrival_s
    p50_s, p99_s = np.percentile(ttft_s, (50, 99))
    dram_block, ssd_block = scenario.dram_block_bytes, scenario.ssd_block_bytes
    storage = scenario.dram_price.per_hour(configuration.dram_bytes) + (ssd.cost_per_hour if ssd else 0.0)
    gpus = scenario.gpu_hour * scenario.profile.gpus * configuration.instances
    written_bytes = float(tally[WRITTEN]) * ssd_block
    written_bytes_per_day = written_bytes / whole_s * SECONDS_PER_DAY
    return Result(
        prefix_hit_ratio=_share(device + dram + on_ssd, requested),
        device_hit_ratio=_share(device, requested),
        node_hit_ratio=_share(dram + on_ssd, requested - device),
        blocks_requested=requested,
        device_hit_blocks=device,
        dram_hit_blocks=dram,
        ssd_hit_blocks=on_ssd,
        dram_hit_bytes=round(dram * dram_block),
        ssd_hit_bytes=round(on_ssd * ssd_block),
        ttft_mean_s=float(ttft_s.mean()),
        ttft_p50_s=float(p50_s),
        ttft_p99_s=float(p99_s),
        wait_mean_s=float((row.dispatch_s - row.arrival_s).mean()),
        throughput_tok_s=float(row.output_tokens.sum()) / makespan_s,
        makespan_s=makespan_s,
        stable=is_stable(row.arrival_s, row.dispatch_s),
        refused_requests=refused,
        storage_cost_per_hour=storage,
        cost_per_hour=storage + gpus,
        ssd_bytes=ssd.paid_bytes if ssd else 0,
        ssd_peak_bytes=round(tally[PEAK] * ssd_block),
        ssd_written_bytes=round(written_bytes),
        ssd_written_bytes_per_day=written_bytes_per_day,
        endurance_used=_endurance_used(ssd, written_bytes_per_day),
        dropped_write_bytes=round(tally[DROPPED] * ssd_block),
        displaced_bytes=round(tally[DISPLACED] * ssd_block),
        channel_utilisation=_share(busy_s(run.channel, run.requests, end_s), whole_s),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _endurance_used(ssd: Provision | None, bytes_per_day: float) -> float | None:
    if ssd is None or ssd.tier.speed.endurance_bytes_per_day is None:
        return None
    return bytes_per_day / (ssd.tier.speed.endurance_bytes_per_day * ssd.volumes)
