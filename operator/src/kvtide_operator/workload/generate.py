"""Synthetic traces: sessions of growing contexts under shared system prompts.

A session picks a shared prompt by Zipf popularity and takes a geometric number of turns with log-normal
think times. Each turn's prompt is the previous prompt, its answer and a new message, so that a session's
full blocks are asked for again by its later turns and the shared prompt's by other sessions. The sizes in
``profiles.py`` are fitted to published statistics.
"""

import numpy as np

from kvtide_operator.workload.profiles import PROFILES, Profile, ProfileName
from kvtide_operator.workload.sessions import DAY_S, MAX_INPUT_TOKENS, Load, Shape, Turns, draw_turns
from kvtide_operator.workload.trace import Trace, TraceError, renumber

MAX_REQUESTS = 2_000_000
MAX_BLOCKS = 100_000_000
"""These take about 4 GB of memory to build (14 million blocks: 0.6 GB). Asked for more, it refuses."""


def generate(
    *,
    profile: ProfileName = "chat",
    requests: int | None = None,
    duration_s: float | None = None,
    rate_per_s: float | None = None,
    block_tokens: int = 512,
    seed: int = 1,
    shape: Shape = "flat",
    peak: float = 4.0,
) -> Trace:
    """A trace of exactly ``requests`` requests, or of all that arrive within ``duration_s`` seconds.

    Args:
        profile: whose statistics it has.
        requests: how many requests; give this or ``duration_s``.
        duration_s: how many seconds.
        rate_per_s: requests a second at the trough of ``shape``; the profile's own without it.
        block_tokens: tokens in a block; the profiles are fitted at 16.
        seed: equal arguments give equal traces.
        shape: ``flat``, ``hill`` (up to ``peak`` times the rate and down again) or ``day`` (a daily wave).
        peak: the crest's rate over the trough's.

    Raises:
        TraceError: an argument is out of range.
    """
    sizes = PROFILES[profile]
    rate = sizes.rate_per_s if rate_per_s is None else rate_per_s
    _check(requests, duration_s, rate, block_tokens, peak)
    mean_factor = 1.0 if shape == "flat" else (1 + peak) / 2
    span_s = duration_s if duration_s is not None else (requests or 0) / (rate * mean_factor)
    load = Load(shape, peak, DAY_S if shape == "day" else span_s)
    rng = np.random.default_rng(seed)
    turns = draw_turns(sizes, load, rate, span_s, rng)
    while requests is not None and len(turns.arrival_s) < requests:
        span_s *= 1.5
        turns = draw_turns(sizes, load, rate, span_s, rng)
    return _trace(turns, sizes, block_tokens, requests)


def _check(
    requests: int | None, duration_s: float | None, rate: float, block_tokens: int, peak: float
) -> None:
    if (requests is None) == (duration_s is None):
        raise TraceError("give either the number of requests or the duration")
    if not 0 < rate < float("inf"):
        raise TraceError(f"a rate of {rate:g} requests a second is out of range; give one above 0")
    if duration_s is not None and not 0 < duration_s < float("inf"):
        raise TraceError(f"a duration of {duration_s:g} s is out of range; give one above 0")
    if not 1 <= peak < float("inf"):
        raise TraceError(f"a peak of {peak:g} is out of range; give at least 1")
    expected = requests if requests is not None else (duration_s or 0) * rate * peak
    if not 1 <= expected <= MAX_REQUESTS:
        raise TraceError(f"{expected:,.0f} requests are out of range; give between 1 and {MAX_REQUESTS:,}")
    if not 1 <= block_tokens <= MAX_INPUT_TOKENS:
        raise TraceError(
            f"{block_tokens} tokens in a block are out of range; give between 1 and {MAX_INPUT_TOKENS:,}"
        )


def _trace(turns: Turns, sizes: Profile, block_tokens: int, requests: int | None) -> Trace:
    """The first ``requests`` turns with their blocks: equal where session or shared prompt and depth are.

    A block that a prompt ends in is partial, the next turn's block at that depth is not: it is never equal
    to another.
    """
    first = slice(requests)
    session, prompt, tokens = turns.session[first], turns.prompt[first], turns.input_tokens[first]
    full, count = tokens // block_tokens, -(-tokens // block_tokens)
    start = np.concatenate(([0], np.cumsum(count)))
    if not 1 <= start[-1] <= MAX_BLOCKS:
        raise TraceError(
            f"{start[-1]:,} blocks are out of range; ask for more or less time, or requests, or larger blocks"
            f" (at most {MAX_BLOCKS:,})"
        )
    shared = sizes.shared_prompt_lengths // block_tokens
    longest = np.zeros(session.max() + 1, dtype=np.int64)
    np.maximum.at(longest, session, full)
    # Three ranges of ids: shared prompts', sessions', partial blocks'.
    shared_id = np.cumsum(shared) - shared
    session_id = shared.sum() + np.cumsum(longest) - longest
    partial_id = shared.sum() + longest.sum()

    depth = np.arange(start[-1]) - np.repeat(start[:-1], count)
    is_shared = depth < np.repeat(shared[prompt], count)
    ids = depth + np.where(
        is_shared, np.repeat(shared_id[prompt], count), np.repeat(session_id[session], count)
    )
    partial = np.flatnonzero(count > full)
    ids[start[1:][partial] - 1] = partial_id + partial
    blocks, known = renumber(ids)
    arrival_s = turns.arrival_s[first]
    return Trace(
        arrival_s=arrival_s - arrival_s[0],
        input_tokens=tokens.astype(np.int32),
        output_tokens=turns.output_tokens[first].astype(np.int32),
        block_start=start,
        blocks=blocks,
        block_ids=np.arange(len(known)),
        weight=np.ones(len(tokens)),
        block_tokens=block_tokens,
    )
