"""What engines' metrics say of their speed, and what they cannot say.

Means over a window give two numbers: how long the prefill of a mean request takes, and how long a decode
step. How either grows with new tokens, cached tokens, batch and context cannot be told from means: that
stays as in the base profile that is declared. Other requests' prompts lengthen the time between two tokens;
that is taken out, which works while prefills take less than `MOST_PREFILL` of the time.
"""

from dataclasses import dataclass
from typing import Final

from kvtide_operator.world.metrics import EngineMetrics, known

LEAST_REQUESTS: Final = 100
"""Within the window: the mean of as many is off by some per cent."""
NOTABLE: Final = 0.1
"""Change of a mean that is worth a new plan."""
MOST_PREFILL: Final = 0.5
"""Share of the time; above it prefills overlap, and neither kind of step is seen alone."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The mean request of one engine within a window.

    Attributes:
        new_tokens: of a prompt, computed.
        cached_tokens: of a prompt, not computed.
        answer_tokens: of an answer.
        batch: answers that are made at a time.
        prefill_s: of a prompt, from scheduling to its first token.
        decode_step_s: of a step that only decodes.
    """

    new_tokens: float
    cached_tokens: float
    answer_tokens: float
    batch: float
    prefill_s: float
    decode_step_s: float

    @property
    def context_tokens(self) -> float:
        """Mean context of an answer that is being made."""
        return self.new_tokens + self.cached_tokens + self.answer_tokens / 2

    def differs(self, other: "Pace") -> bool:
        """Whether a plan that was made for this pace may not hold at the other one."""
        prefill = abs(self.prefill_s - other.prefill_s) / self.prefill_s
        decode = abs(self.decode_step_s - other.decode_step_s) / self.decode_step_s
        return max(prefill, decode) > NOTABLE


def pace_of(metrics: EngineMetrics | None) -> Pace | str:
    """The pace that metrics show, or why they show none, as the end of a sentence."""
    if metrics is None:
        return "no metrics are declared"
    read = {
        name: known(getattr(metrics, name))
        for name in (
            "instances",
            "requests_per_s",
            "prompt_tokens_per_s",
            "generation_tokens_per_s",
            "prefill_tokens_per_s",
            "prefix_hit_ratio",
            "inter_token_mean_s",
        )
    }
    values = {name: value for name, value in read.items() if value is not None}
    if missing := sorted(read.keys() - values.keys()):
        return f"{', '.join(missing)} cannot be read"
    requests = values["requests_per_s"] * metrics.window_s
    if requests < LEAST_REQUESTS:
        return f"{requests:.0f} requests were served within the window, {LEAST_REQUESTS} are needed"
    per_s = values["requests_per_s"] / max(values["instances"], 1.0)
    prompt = values["prompt_tokens_per_s"] / values["requests_per_s"]
    cached = min(max(values["prefix_hit_ratio"], 0.0), 1.0) * prompt
    answer = values["generation_tokens_per_s"] / values["requests_per_s"]
    if answer < 2 or prompt - cached < 1 or values["prefill_tokens_per_s"] <= 0:
        return "requests have no prompt to compute or no answer to decode"
    prefill_s = (prompt - cached) / values["prefill_tokens_per_s"]
    busy = per_s * prefill_s
    # A second is `busy` seconds of prefills, each of which brings answers a token on, and decode steps.
    decode_steps = 1 / values["inter_token_mean_s"] - per_s if values["inter_token_mean_s"] > 0 else 0.0
    if busy > MOST_PREFILL or decode_steps <= 0:
        return f"prefills take {busy:.0%} of the time, in which no step is seen alone"
    return Pace(
        new_tokens=prompt - cached,
        cached_tokens=cached,
        answer_tokens=answer,
        batch=max(per_s * (answer - 1) * values["inter_token_mean_s"], 1.0),
        prefill_s=prefill_s,
        decode_step_s=(1 - busy) / decode_steps,
    )
