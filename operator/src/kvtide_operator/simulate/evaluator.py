"""Evaluates configurations: two stages for a search, one coupled run for the point that is chosen."""

from collections import OrderedDict
from dataclasses import replace
from math import ceil

import numpy as np

from kvtide_cachenode.contract.sizing import LOG_INDEX_SHARE
from kvtide_cachenode.placement import NEEDED_WORTH
from kvtide_operator.simulate.batch import idle_batch
from kvtide_operator.simulate.cache.channel import idle_channel
from kvtide_operator.simulate.cache.passes import CachePass, cache_pass
from kvtide_operator.simulate.cache.pool import Pool, empty_pool
from kvtide_operator.simulate.cache.ssd import empty_ssd
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.simulate.requests import Requests, requests_of
from kvtide_operator.simulate.result import Result
from kvtide_operator.simulate.scenario import Scenario
from kvtide_operator.simulate.simulation import Simulation, Transfers, serve
from kvtide_operator.simulate.sizing import Provision, Retention, provision, retention
from kvtide_operator.simulate.summary import check_books, summary
from kvtide_operator.workload.spread import spread

INDEX_STEPS = 64
"""Where nothing is coupled, the SSD's index takes DRAM in so many steps; ours."""
LONG_WAIT_S = 4.0
"""Beyond this mean wait the cache pass, which knows no queues, is not trusted: the point is played in time.
Ours: of 212 stable points with up to 5 s of it none is 0.005 of hit ratio off, of 44 with more four are."""
PASSES_KEPT = 2
"""Cache passes an evaluator remembers; a search evaluates all points of a DRAM size one after the other."""
WRITE_QUEUE_BYTES = 16 << 30
"""Writes to SSD that may be queued; what comes on top is dropped. Ours: a request of 128 k tokens of
Llama-3.1-8B displaces 16 GiB at once."""


class Evaluator:
    """A pure function from configurations to results; the same in any process."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        requests = requests_of(spread(scenario.trace, scenario.seed), scenario.semantics)
        row = requests.row
        served = row.input_tokens + row.output_tokens <= scenario.profile.kv_capacity_tokens
        if not served[scenario.first_request :].any():
            raise SimulationError(
                f"no request fits the {scenario.profile.kv_capacity_tokens} tokens of KV of an engine: "
                "take a profile with more GPUs"
            )
        self._requests = requests._replace(row=row[served])
        self._refused = int(np.count_nonzero(~served[scenario.first_request :]))
        self._first = int(np.count_nonzero(served[: scenario.first_request]))
        group = scenario.block_group
        self._group = np.zeros(scenario.trace.unique_blocks, dtype=np.int8) if group is None else group
        self._passes: OrderedDict[tuple[int, int], CachePass] = OrderedDict()

    def __reduce__(self) -> tuple[type["Evaluator"], tuple[Scenario]]:
        """What another process needs: passes are made anew there."""
        return Evaluator, (self.scenario,)

    def cache(self, dram_bytes: int, instances: int = 1) -> CachePass:
        """The cache pass of a DRAM size and a number of engines.

        Raises:
            SimulationError: DRAM is too small for a block.
        """
        key = (self._dram_blocks(dram_bytes), instances)
        if key not in self._passes:
            if len(self._passes) == PASSES_KEPT:
                self._passes.popitem(last=False)
            self._passes[key] = cache_pass(
                self._requests.afresh(),
                self._empty_pool(*key),
                self.scenario.profile.tables,
                self.scenario.chunk_tokens,
            )
        self._passes.move_to_end(key)
        return self._passes[key]

    def evaluate(self, configuration: Configuration) -> Result:
        """Two stages: DRAM and GPU caches without queues, everything else in time; coupled if waits are long.

        Raises:
            SimulationError: the configuration does not fit the scenario.
        """
        result, ssd = self._staged(configuration)
        if result.wait_mean_s > LONG_WAIT_S:
            result = self._in_time(configuration, ssd)
        return self._billed(result, configuration)

    def coupled(self, configuration: Configuration) -> Result:
        """Everything in time, on the SSD that `evaluate` provisions: the reference.

        Raises:
            SimulationError: the configuration does not fit the scenario.
        """
        return self._billed(self._in_time(configuration, self._staged(configuration)[1]), configuration)

    def _billed(self, result: Result, configuration: Configuration) -> Result:
        """The result with what is really paid, where that is more than the tiers."""
        per_hour = self.scenario.tiers_per_hour
        if per_hour is None:
            return result
        storage = per_hour(configuration.dram_bytes, result.ssd_bytes, configuration.tier_class)
        gpus = result.cost_per_hour - result.storage_cost_per_hour
        return replace(result, storage_cost_per_hour=storage, cost_per_hour=storage + gpus)

    def _in_time(self, configuration: Configuration, ssd: Provision | None) -> Result:
        """The coupled run on a given SSD; the engines of requests are those of the cache pass."""
        requests = self.cache(configuration.dram_bytes, configuration.instances).requests.afresh()
        pool = self._empty_pool(self._dram_blocks(configuration.dram_bytes), configuration.instances)
        return self._run(configuration, ssd, requests, pool, coupled=True)

    def _staged(self, configuration: Configuration) -> tuple[Result, Provision | None]:
        passed = self.cache(configuration.dram_bytes, configuration.instances)
        if not configuration.has_ssd:
            return self._run(configuration, None, passed.requests.afresh(), passed.pool, coupled=False), None
        scenario = self.scenario
        kept = self._retention(configuration, passed)
        index_bytes = self._index_bytes(configuration, kept)
        if index_bytes:
            left_bytes = max(configuration.dram_bytes - index_bytes, ceil(scenario.dram_block_bytes))
            passed = self.cache(left_bytes, configuration.instances)
            kept = self._retention(configuration, passed)
        assert configuration.tier_class is not None
        enough = provision(scenario, configuration.tier_class, configuration.volumes, kept)
        enough = replace(enough, cap_blocks=min(enough.cap_blocks, self._indexed_blocks(configuration)))
        result = self._run(configuration, enough, passed.requests.afresh(), passed.pool, coupled=False)
        # What the write queue dropped needs no room.
        held = replace(kept, peak_blocks=round(result.ssd_peak_bytes / scenario.ssd_block_bytes))
        needed = provision(scenario, configuration.tier_class, configuration.volumes, held)
        needed = replace(needed, cap_blocks=min(needed.cap_blocks, self._indexed_blocks(configuration)))
        cost = needed.cost_per_hour - enough.cost_per_hour
        return (
            replace(
                result,
                ssd_bytes=needed.paid_bytes,
                storage_cost_per_hour=result.storage_cost_per_hour + cost,
                cost_per_hour=result.cost_per_hour + cost,
            ),
            needed,
        )

    def _retention(self, configuration: Configuration, passed: CachePass) -> Retention:
        needed_worth = NEEDED_WORTH[self.scenario.ssd_writes]
        kept = retention(passed, self._group, self._group_ttl_s(configuration), needed_worth)
        return replace(kept, peak_blocks=min(kept.peak_blocks, self._indexed_blocks(configuration)))

    def _indexed_blocks(self, configuration: Configuration) -> int:
        """Copies that the index has room for; without DRAM there is nothing to charge it to."""
        entry_bytes = self.scenario.ssd_index_bytes
        if not entry_bytes or not configuration.dram_bytes:
            return self.scenario.trace.unique_blocks
        return int(LOG_INDEX_SHARE * configuration.dram_bytes) // entry_bytes

    def _index_bytes(self, configuration: Configuration, kept: Retention) -> int:
        """DRAM that the index takes in the mean, in steps, so that a pass serves many TTLs."""
        if not configuration.dram_bytes:
            return 0
        copies = min(kept.mean_blocks, self._indexed_blocks(configuration))
        step_bytes = configuration.dram_bytes / INDEX_STEPS
        return int(round(copies * self.scenario.ssd_index_bytes / step_bytes) * step_bytes)

    def _dram_blocks(self, dram_bytes: int) -> int:
        block_bytes = self.scenario.dram_block_bytes
        if 0 < dram_bytes < block_bytes:
            raise SimulationError(
                f"a block of {block_bytes:.0f} bytes does not fit DRAM of {dram_bytes} bytes: "
                "give room for a block at least, or 0 for no DRAM"
            )
        return int(dram_bytes / block_bytes)

    def _empty_pool(self, dram_blocks: int, instances: int) -> Pool:
        scenario = self.scenario
        return empty_pool(
            self._requests,
            instances,
            scenario.device_blocks,
            dram_blocks,
            scenario.offload,
            scenario.routing,
        )

    def _group_ttl_s(self, configuration: Configuration) -> tuple[float, ...]:
        ttl_s, groups = configuration.group_ttl_s, self.scenario.groups
        if len(ttl_s) == 1:
            return ttl_s * groups
        if len(ttl_s) != groups:
            raise SimulationError(f"{len(ttl_s)} TTLs for {groups} groups of blocks: give one for each")
        return ttl_s

    def _run(
        self,
        configuration: Configuration,
        ssd: Provision | None,
        requests: Requests,
        pool: Pool,
        *,
        coupled: bool,
    ) -> Result:
        """Play ``requests``, which are changed, on a pool that is empty (coupled) or already played."""
        scenario = self.scenario
        run = Simulation(
            requests=requests,
            batch=idle_batch(
                requests,
                scenario.profile,
                configuration.instances,
                scenario.chunk_tokens,
                scenario.max_sequences,
            ),
            pool=pool,
            ssd=empty_ssd(
                self._group if ssd else self._group[:0],
                self._group_ttl_s(configuration) if ssd else (0.0,),
                scenario.ssd_writes,
                ssd.cap_blocks if ssd else 1,
                self._dram_blocks(configuration.dram_bytes),
                scenario.ssd_index_bytes / scenario.dram_block_bytes
                if ssd and configuration.dram_bytes
                else 0.0,
            ),
            channel=idle_channel(
                len(requests.row) if ssd else 0, shared=ssd is None or ssd.tier.speed.shared_channel
            ),
            transfers=self._transfers(ssd),
            coupled=coupled,
            has_ssd=ssd is not None,
            loads_async=scenario.loading == "async",
            while_queued=scenario.reload == "queueing",
        )
        serve(run)
        check_books(run)
        return summary(scenario, configuration, ssd, run, self._first, self._refused)

    def _transfers(self, ssd: Provision | None) -> Transfers:
        scenario, block_bytes = self.scenario, self.scenario.ssd_block_bytes
        load_s = scenario.dram_block_bytes / scenario.dram_load_bytes_s
        if ssd is None:
            return Transfers(load_s, 0.0, 0.0, 0.0, 0.0)
        speed, size, volumes = ssd.tier.speed, ssd.paid_bytes, ssd.volumes
        write_bytes_s = speed.write_bytes_s(size, volumes)
        return Transfers(
            load_s=load_s,
            read_s=block_bytes / speed.read_bytes_s(size, volumes),
            write_s=block_bytes / write_bytes_s,
            latency_s=speed.latency_s,
            write_queue_s=WRITE_QUEUE_BYTES / write_bytes_s,
        )
