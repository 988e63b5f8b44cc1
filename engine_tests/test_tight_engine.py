"""Too little KV space, small parts, no prefix cache of its own: requests are preempted and say the same."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.timeout(1200)

# Four requests end with 6 blocks each, two more than there are.
REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS = 4, 620, 60


@pytest.fixture(scope="module")
def prompts(make_prompt):
    return [make_prompt(PROMPT_TOKENS, 600 + number) for number in range(REQUESTS)]


@pytest.fixture(scope="module")
def answers(first, prompts):
    """What each prompt's answer is when another engine computes it alone; with a salt it shares nothing."""
    return [first.tokens(prompt, OUTPUT_TOKENS, cache_salt="alone") for prompt in prompts]


def test_preempted_requests_say_what_they_say_alone(tight, prompts, answers, show):
    with tight.counted() as grown, ThreadPoolExecutor(REQUESTS) as pool:
        together = list(pool.map(lambda prompt: tight.tokens(prompt, OUTPUT_TOKENS), prompts))
    show(f"{grown['num_preemptions']:.0f} preemptions, {grown['load_blocks']:.0f} blocks loaded after them")
    assert grown["num_preemptions"] > 0
    assert grown["load_blocks"] > 0
    assert together == answers


def test_the_same_engine_restarted_loads_and_says_the_same(tight, prompts, answers):
    """Stored in parts of 256 tokens, loaded whole, without any prefix cache of the engine's own."""
    tight.stop()
    tight.start()
    tight.wait()
    with tight.counted() as grown:
        assert [tight.tokens(prompt, OUTPUT_TOKENS) for prompt in prompts] == answers
    assert grown["load_blocks"] == REQUESTS * (PROMPT_TOKENS // 128)
