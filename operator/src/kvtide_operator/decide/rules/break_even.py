"""A tier whose loads are slower than computing the tokens again slows requests down: it is turned off."""

from dataclasses import replace

from kvtide_operator.decide.situation import Dial, DialName, Dials, Situation
from kvtide_operator.plan.speeds import Speeds
from kvtide_operator.world.metrics import EngineMetrics, known

MARGIN = 1.1
"""Loads must be slower by a tenth before a tier goes: both speeds are means of a window, and a tier that
breaks even still leaves the GPUs to others."""


def breaks_even(dials: Dials, situation: Situation) -> Dials:
    """Send a slow tier to the least that its bounds allow: the SSD at once, DRAM by the usual steps.

    Measured speeds count where there are any. They do not tell one tier from another, so that with both tiers
    in use the SSD goes, which is the slower.
    """
    found = slow_tier(situation)
    if found is None:
        return dials
    name, why = found
    return tuple(_off(dial, why) if dial.name == name else dial for dial in dials)


def slow_tier(situation: Situation) -> tuple[DialName, str] | None:
    """The tier that does not break even, and why."""
    has_ssd = situation.here.ssd_bytes > 0
    measured = _measured(situation.metrics, situation.speeds)
    if measured is not None:
        load, prefill = measured
        if load * MARGIN < prefill:
            return "ssd" if has_ssd else "dram", _sentence("measured", load, prefill)
        if has_ssd:
            return None
    speeds = situation.speeds
    if speeds is None:
        return None
    # Loads from DRAM were measured above where there is no SSD.
    tiers: list[tuple[DialName, float | None]] = [("ssd", speeds.ssd_tokens_per_s)]
    if measured is None:
        tiers.append(("dram", speeds.dram_tokens_per_s))
    for name, load_tokens_per_s in tiers:
        if load_tokens_per_s is not None and load_tokens_per_s * MARGIN < speeds.prefill_tokens_per_s:
            return name, _sentence("modelled", load_tokens_per_s, speeds.prefill_tokens_per_s)
    return None


def _measured(metrics: EngineMetrics | None, speeds: Speeds | None) -> tuple[float, float] | None:
    """Tokens a second loaded and computed by one engine; None where either is not known."""
    if metrics is None:
        return None
    load, prefill = known(metrics.external_load_tokens_per_s), known(metrics.prefill_tokens_per_s)
    load_bytes_per_s = known(metrics.external_load_bytes_per_s)
    if load is None and load_bytes_per_s is not None and speeds is not None:
        load = load_bytes_per_s / speeds.kv_bytes_per_token
    if load is None or prefill is None:
        return None
    return load, prefill


def _sentence(source: str, load: float, prefill: float) -> str:
    return f"loading is slower than computing: {load:,.0f} tokens a second {source}, against {prefill:,.0f}"


def _off(dial: Dial, why: str) -> Dial:
    if dial.here <= dial.min and dial.to <= dial.min:
        return dial
    kept = "" if dial.min == 0 else f", so that only the declared minimum of {dial.text(dial.min)} is kept"
    return replace(dial, to=dial.min, reason="", guard=why + kept, forced=dial.name == "ssd")
