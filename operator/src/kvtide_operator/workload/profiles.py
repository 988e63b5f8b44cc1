"""What the sessions of a generated trace look like, fitted to published statistics.

Fitted by random search over two hours at the profile's own rate in blocks of 16 tokens; the generated figures
are means of seeds 1 to 4. Published: "KVCache in the wild" (ATC'25, arXiv 2506.02634), traces A (``chat``)
and B (``api``); the last row is Kareto's description of its trace B, which is the same data.

========  =====================================================  =========  =========
profile   statistic                                              published  generated
========  =====================================================  =========  =========
chat      hit ratio of an infinite cache                         0.62       0.623
chat      share of reuse that 10 % of the blocks give            0.77       0.764
chat      reuse within 10 min of the access before               0.80       0.813
chat      blocks not asked for later than 612 s after the first  0.90       0.867
chat      mean prompt of sessions of one turn, tokens            973        973
chat      mean prompt of longer sessions, tokens                 5,953      5,924
api       hit ratio of an infinite cache                         0.54       0.543
api       reuse within 10 s of the access before                 0.80       0.791
api       blocks not asked for later than 0.3 s after the first  0.90       0.889
api       share of the blocks that give 90 % of reuse            0.0067     0.0067
========  =====================================================  =========  =========

The two that chat misses pull against each other: 20 % of its reuse comes after 10 min, on the 10 % of blocks
that live longer than that, which sessions and shared prompts as modelled here do not concentrate so much. The
price of the rest is that few sessions (about 3 in 100) have more than one turn.

Other rates, lengths or block sizes give other statistics: shared prompts are reused the more the more
requests there are, and a block is the less often whole the larger it is.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ProfileName = Literal["chat", "api"]


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A log-normal quantity by its mean and the standard deviation of its logarithm."""

    mean: float
    sigma: float

    def draw(self, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """float64[size], independent draws."""
        return rng.lognormal(np.log(self.mean) - self.sigma**2 / 2, self.sigma, size)

    def spread(self, size: int) -> NDArray[np.float64]:
        """float64[size], quantiles in golden-ratio order, so that every head of the array has the mean."""
        golden = (np.sqrt(5) - 1) / 2
        quantile = (0.5 + golden * np.arange(size)) % 1 * 0.998 + 0.001
        normal = np.array([NormalDist().inv_cdf(q) for q in quantile])
        lengths: NDArray[np.float64] = np.exp(np.log(self.mean) - self.sigma**2 / 2 + self.sigma * normal)
        return lengths


@dataclass(frozen=True, slots=True)
class Profile:
    """The sizes a generator draws from.

    Attributes:
        rate_per_s: requests a second the statistics were fitted at.
        warm_up_s: how long before time 0 sessions have been starting, so that the rate is steady from 0 on.
        shared_prompts: how many different shared prompts (applications) there are.
        zipf_exponent: their popularity falls with rank to this power.
        shared_prompt_tokens: their lengths.
        single_turn_share: sessions of one turn; the others have two or more, geometrically distributed.
        mean_turns_multi: mean turns of the others, above 2.
        single_message_tokens: the message of a session of one turn.
        first_message_tokens: the first message of a longer session.
        message_tokens: every later message.
        answer_tokens: the answers; each becomes part of the next prompt.
        think_s: seconds between two turns of a session.
        pace_sigma: sessions differ in pace by a log-normal factor with this sigma.
    """

    rate_per_s: float
    warm_up_s: float
    shared_prompts: int
    zipf_exponent: float
    shared_prompt_tokens: LogNormal
    single_turn_share: float
    mean_turns_multi: float
    single_message_tokens: LogNormal
    first_message_tokens: LogNormal
    message_tokens: LogNormal
    answer_tokens: LogNormal
    think_s: LogNormal
    pace_sigma: float

    @property
    def shared_prompt_lengths(self) -> NDArray[np.int64]:
        """int64[shared_prompts], tokens, in order of popularity."""
        return np.ceil(self.shared_prompt_tokens.spread(self.shared_prompts)).astype(np.int64)

    @property
    def mean_turns(self) -> float:
        """Requests of a session, in the mean."""
        return self.single_turn_share + (1 - self.single_turn_share) * self.mean_turns_multi


CHAT = Profile(
    rate_per_s=6.0,
    warm_up_s=14_400.0,
    shared_prompts=3_100,
    zipf_exponent=0.64,
    shared_prompt_tokens=LogNormal(662, 0.1),
    single_turn_share=0.972,
    mean_turns_multi=2.88,
    single_message_tokens=LogNormal(311, 1.0),
    first_message_tokens=LogNormal(4_450, 1.0),
    message_tokens=LogNormal(242, 1.0),
    answer_tokens=LogNormal(450, 0.7),
    think_s=LogNormal(276, 2.2),
    pace_sigma=1.77,
)
API = Profile(
    rate_per_s=12.0,
    warm_up_s=600.0,
    shared_prompts=240,
    zipf_exponent=1.17,
    shared_prompt_tokens=LogNormal(576, 0.31),
    single_turn_share=0.83,
    mean_turns_multi=2.17,
    single_message_tokens=LogNormal(600, 0.8),
    first_message_tokens=LogNormal(367, 0.8),
    message_tokens=LogNormal(64, 1.0),
    answer_tokens=LogNormal(150, 0.7),
    think_s=LogNormal(1.6, 0.67),
    pace_sigma=0.0,
)
PROFILES: dict[ProfileName, Profile] = {"chat": CHAT, "api": API}
