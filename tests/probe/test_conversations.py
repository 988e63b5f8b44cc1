"""Workloads of real texts: lengths, prefixes, files that cannot be used."""

import json
from itertools import pairwise

import numpy as np
import pytest

from kvtide_operator.probe.conversations import (
    TURN_TOKENS,
    TextError,
    conversations,
    poisson_arrivals,
    read_texts,
    texts_for,
)
from kvtide_operator.probe.validation import trace_of

LONGEST = TURN_TOKENS[-1]


def texts(count):
    return [[1000 * number + at for at in range(LONGEST)] for number in range(count)]


def test_prompts_have_400_tokens_on_average_and_go_on_where_their_conversation_was():
    prompts = conversations(texts(texts_for(300)), 300, seed=7)
    assert len(prompts) == 300
    assert sum(map(len, prompts)) / 300 == 400
    seen = {}
    for prompt in prompts:
        number = prompt[0]
        assert prompt[: len(seen.get(number, []))] == seen.get(number, [])
        assert len(prompt) > len(seen.get(number, []))
        seen[number] = prompt
    assert 60 < len(seen) < 120


def test_prompts_are_as_long_at_the_end_as_at_the_beginning():
    prompts = [prompt for seed in range(100) for prompt in conversations(texts(120), 300, seed)]
    thirds = np.array(list(map(len, prompts))).reshape(100, 3, 100).mean(axis=(0, 2))
    assert thirds == pytest.approx([400, 400, 400], rel=0.03)


def test_turns_of_conversations_come_among_each_other():
    prompts = conversations(texts(120), 300, seed=7)
    same = sum(one[0] == two[0] for one, two in pairwise(prompts))
    assert same < 60


def test_what_can_hit_at_most_is_the_turns_before():
    prompts = conversations(texts(120), 300, seed=7)
    trace = trace_of(prompts, list(range(300)), 16, 128)
    assert len(trace.blocks) == 60 * (1 + 2 + 4 + 5 + 6)
    # What is partial in a turn is another block in the next; what began before has no shorter turns here.
    longest = {prompt[0]: len(prompt) // 128 for prompt in prompts}
    assert trace.unique_blocks == 300 + sum(longest.values())


def test_no_answer_fills_a_block_of_128():
    assert all((length + 16) // 128 == length // 128 for length in TURN_TOKENS)


def test_arrivals_begin_at_zero_at_the_rate_that_was_asked_for():
    arrivals_s = poisson_arrivals(20_000, 5.0, seed=1)
    assert arrivals_s[0] == 0.0
    assert 20_000 / arrivals_s[-1] == pytest.approx(5.0, rel=0.03)


async def test_ids_of_another_tokenizer_are_folded(tmp_path):
    file = tmp_path / "texts.jsonl"
    rows = [{"input_tok_ids": [97_488] * LONGEST}, {"input_tok_ids": [5] * 10}, {"input_tok_ids": [7] * 2000}]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = await read_texts(file, None, 2)
    assert found == [[7_488] * LONGEST, [7] * LONGEST]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"prompt": 3}', r"line 1: Expected `str \| null`"),
        ("{}", "line 1 has neither prompt nor input_tok_ids; give one of them"),
        ("not json", "line 1: "),
        ('{"input_tok_ids": [1, 2]}', "has 0 texts of 720 tokens or more; 1 are needed: give more texts"),
        (None, "cannot be read: No such file or directory"),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, content, said):
    file = tmp_path / "texts.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(TextError, match=said):
        await read_texts(file, None, 1)
