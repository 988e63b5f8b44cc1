"""Requests with reuse, made of real texts: conversations that grow turn by turn, played among each other."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from kvtide_operator.probe.engine import Engine

TURN_TOKENS: Final = (100, 230, 400, 550, 720)
"""Prompt lengths of a conversation's turns, each beginning with the one before: 400 tokens on average.

In blocks of 128 tokens no answer of up to 16 fills a block: what follows an answer here is the text, but the
simulator takes what follows for the answer.
"""
LEAST_GAP_SHARE, MOST_GAP_SHARE = 0.03, 0.25
"""Distance between two turns of a conversation, in parts of a run: nobody goes on before the answer is there,
and a conversation is over within a run."""
TOKEN_IDS: Final = 30000
"""Ids of a foreign tokenizer are folded into these, which every large model has: equal stays equal."""
MAX_FILE_BYTES: Final = 1 << 30


class TextError(ValueError):
    """A file of texts that cannot be used; the message names it and the cure."""


class _Line(msgspec.Struct):
    prompt: str | None = None
    input_tok_ids: list[int] | None = None


async def read_texts(path: Path, engine: Engine, wanted: int) -> list[list[int]]:
    """The first ``wanted`` texts that are long enough, as tokens, cut to the longest turn.

    Args:
        path: JSON lines with ``prompt`` (text, for the engine's tokenizer) or ``input_tok_ids``.
        engine: knows its tokenizer.
        wanted: how many texts.

    Raises:
        TextError: it cannot be read, or has too few texts.
        EngineError: the engine does not tokenize.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TextError(f"{path} is larger than 1 GiB; give a part of it")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror}") from None
    longest = TURN_TOKENS[-1]
    texts: list[list[int]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError as error:
            raise TextError(f"{path}, line {number}: {error}") from None
        if row.input_tok_ids is not None:
            tokens = [token % TOKEN_IDS for token in row.input_tok_ids[:longest]]
        elif row.prompt is not None:
            tokens = (await engine.tokens(row.prompt))[:longest]
        else:
            raise TextError(f"{path}, line {number} has neither prompt nor input_tok_ids; give one of them")
        if len(tokens) == longest:
            texts.append(tokens)
        if len(texts) == wanted:
            return texts
    raise TextError(
        f"{path} has {len(texts)} texts of {longest} tokens or more; {wanted} are needed: give more texts"
        " or fewer requests"
    )


def texts_for(requests: int) -> int:
    """The most conversations that so many requests are of: each may have begun before or go on after."""
    return 2 * -(-requests // len(TURN_TOKENS))


def conversations(texts: Sequence[list[int]], requests: int, seed: int) -> list[list[int]]:
    """``requests`` prompts in order, of conversations that begin at any time and go on after random gaps.

    What comes after the end of a run is played at its beginning with another text, as what is left of a
    conversation that began before: so there are as many long prompts at the beginning as at the end.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    turns: list[tuple[float, list[int]]] = []
    for text, other in zip(texts[::2], texts[1::2], strict=True):
        at = chance.random()
        for length in TURN_TOKENS:
            turns.append((at % 1.0, (text if at < 1.0 else other)[:length]))
            at += chance.uniform(LEAST_GAP_SHARE, MOST_GAP_SHARE)
    turns.sort(key=lambda turn: turn[0])
    return [prompt for _, prompt in turns[:requests]]


def poisson_arrivals(requests: int, rate_per_s: float, seed: int) -> list[float]:
    """Seconds of so many arrivals, the first at 0."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    at_s, arrivals = 0.0, []
    for _ in range(requests):
        arrivals.append(at_s)
        at_s += chance.expovariate(rate_per_s)
    return arrivals
