"""A float32 engine with the cache gives, token by token, what it gives without; and how fast it is."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.timeout(1200)

# The last is longer than what is computed at once.
LENGTHS = [300, 511, 512, 513, 700, 777, 1111, 2100]
OUTPUT_TOKENS = 24


@pytest.fixture(scope="module")
def answers(first, node, make_prompt):
    """Prompts and what an engine computed for them that had nothing cached."""
    prompts = [make_prompt(length, seed) for seed, length in enumerate(LENGTHS)]
    # The last token generated is never computed on.
    with node.storing(sum((length + OUTPUT_TOKENS - 1) // 128 for length in LENGTHS)):
        return [(prompt, first.tokens(prompt, OUTPUT_TOKENS)) for prompt in prompts]


def test_another_engine_loads_and_says_the_same(answers, second):
    second.settle(answers[0][0])
    with second.counted() as grown:
        got = [second.tokens(prompt, OUTPUT_TOKENS) for prompt, _ in answers]
    assert got == [tokens for _, tokens in answers]
    whole = sum(len(prompt) // 128 for prompt, _ in answers)
    assert grown["load_blocks"] == whole
    assert not grown["load_failed_blocks"]


def test_eight_at_once_say_the_same(answers, second):
    second.forget()
    with second.counted() as grown, ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda answer: second.tokens(answer[0], OUTPUT_TOKENS), answers))
    assert got == [tokens for _, tokens in answers]
    assert grown["load_blocks"] == sum(len(prompt) // 128 for prompt, _ in answers)


def test_answers_are_stored_too(first, second, node, make_prompt):
    prompt = make_prompt(200, 50)
    with node.storing(2):  # 256 of 279 tokens
        answer = first.tokens(prompt, 80)
    again = prompt + answer[:70]
    with second.counted() as grown:
        assert second.tokens(again, 4) == first.tokens(again, 4)
    assert grown["load_blocks"] == 2


def test_salts_do_not_share(first, second, node, make_prompt):
    prompt = make_prompt(600, 60)
    with node.storing(4):
        first.tokens(prompt, cache_salt="one")
    with second.counted() as grown, node.storing(8):
        second.tokens(prompt, cache_salt="two")
        second.tokens(prompt)
    assert grown["external_prefix_cache_hits"] == 0
    with second.counted() as grown:
        second.forget()
        second.tokens(prompt, cache_salt="one")
    assert grown["external_prefix_cache_hits"] == 4 * 128


def test_time_to_first_token_in_float32(first, measure_ttft):
    measure_ttft(first, "float32")
