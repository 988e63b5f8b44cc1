"""What simulating a configuration gives."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """Hits, latency, throughput and cost of one configuration.

    Attributes:
        prefix_hit_ratio: blocks hit in any tier / blocks requested.
        device_hit_ratio: blocks hit in GPU caches / blocks requested.
        node_hit_ratio: blocks hit in DRAM and SSD / blocks requested that GPU caches did not hit.
        blocks_requested: every block of every request.
        device_hit_blocks: blocks hit in GPU caches.
        dram_hit_blocks: blocks hit in DRAM.
        ssd_hit_blocks: blocks read from SSD and used.
        dram_hit_bytes: bytes loaded for them, as stored.
        ssd_hit_bytes: bytes read for them, as stored.
        ttft_mean_s: time to first token, from arrival; meaningless unless stable.
        ttft_p50_s: its median.
        ttft_p99_s: its 99th percentile.
        wait_mean_s: from arrival until the prefill begins; meaningless unless stable.
        throughput_tok_s: output tokens / makespan.
        makespan_s: seconds from the first arrival to the last token.
        stable: the queue neither grows nor outlasts the trace, see `stability.is_stable`.
        refused_requests: requests that no engine could ever hold; they miss every block and have no latency.
        storage_cost_per_hour: DRAM and SSD, in the currency of their prices.
        cost_per_hour: storage and GPUs.
        ssd_bytes: SSD provisioned over all volumes, 0 for none.
        ssd_peak_bytes: most bytes of copies at once.
        ssd_written_bytes: bytes written.
        ssd_written_bytes_per_day: the same at that pace for a day.
        endurance_used: that over what the medium allows; None where there is no limit.
        dropped_write_bytes: demotions that the write queue had no room for.
        displaced_bytes: copies displaced under the byte cap before their time was up.
        channel_utilisation: share of the makespan in which the (busier) channel worked.
    """

    prefix_hit_ratio: float
    device_hit_ratio: float
    node_hit_ratio: float
    blocks_requested: int
    device_hit_blocks: int
    dram_hit_blocks: int
    ssd_hit_blocks: int
    dram_hit_bytes: int
    ssd_hit_bytes: int
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    wait_mean_s: float
    throughput_tok_s: float
    makespan_s: float
    stable: bool
    refused_requests: int
    storage_cost_per_hour: float
    cost_per_hour: float
    ssd_bytes: int
    ssd_peak_bytes: int
    ssd_written_bytes: int
    ssd_written_bytes_per_day: float
    endurance_used: float | None
    dropped_write_bytes: int
    displaced_bytes: int
    channel_utilisation: float
