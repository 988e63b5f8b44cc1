"""A move must be worth it: more than the user's minimum, and more than the predictor is wrong by."""

from kvtide_operator.decide.situation import Dials, Situation

FULL_GAIN = 1.0
"""What a plan gains that keeps constraints which the cache breaks now: always worth it."""


def worth_it(dials: Dials, situation: Situation) -> Dials:
    """Stay where the gain is too small, but for a dial outside its bounds."""
    plan = situation.plan
    assert plan is not None, "a rule follows a plan"
    minimum = situation.spec.scaling.minimum_gain
    noise = noise_of(situation)
    if is_worth_it(situation):
        return dials
    why = (
        f"the minimum gain of {minimum:.0%}" if noise <= minimum else f"the predictor's error of {noise:.1%}"
    )
    return tuple(
        dial
        if dial.forced or not dial.min <= dial.here <= dial.max
        else dial.stay(f"{dial.text(dial.to)} would gain {plan.gain:.1%}, less than {why}")
        for dial in dials
    )


def is_worth_it(situation: Situation) -> bool:
    """Whether what the plan gains is enough to move for."""
    assert situation.plan is not None, "a rule follows a plan"
    needed = max(situation.spec.scaling.minimum_gain, noise_of(situation))
    return situation.plan.gain >= min(needed, FULL_GAIN)


def noise_of(situation: Situation) -> float:
    """The error of the predicted gain, as a share of what the objective prefers; 0 where none is known.

    A price is known, so that a saving has no error. A latency has that of the TTFT. Throughput is limited by
    what is computed, the share 1 − h of a prompt, so that an error of the hit ratio h weighs by 1 / (1 − h).
    Of a knee the larger of both counts.
    """
    noise, plan = situation.noise, situation.plan
    if noise is None or plan is None:
        return 0.0
    latency = abs(noise.ttft or 0.0)
    computed = max(1.0 - plan.current.outcome.prefix_hit_ratio, 0.01)
    throughput = abs(noise.hit_ratio or 0.0) / computed
    return {
        "Cost": 0.0,
        "Latency": latency,
        "Throughput": throughput,
        "Balanced": max(latency, throughput),
    }[situation.spec.objective.prefer]
