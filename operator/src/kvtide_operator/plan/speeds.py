"""How fast a tier gives a token back, beside how fast an engine computes it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Speeds:
    """What the model says of one configuration at no load.

    Attributes:
        prefill_tokens_per_s: that one engine computes, in whole chunks without context: at its fastest.
        dram_tokens_per_s: that one engine loads from DRAM.
        ssd_tokens_per_s: that it loads from SSD, through DRAM; None without an SSD.
        kv_bytes_per_token: as a tier stores it, for measurements in bytes.
    """

    prefill_tokens_per_s: float
    dram_tokens_per_s: float
    ssd_tokens_per_s: float | None
    kv_bytes_per_token: float
