"""Too little KV space, small chunks, no prefix cache of its own: requests are preempted and say the same."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.timeout(1200)

REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS = 4, 620, 60
# One short of what all requests have at their ends.
KV_BLOCKS = REQUESTS * 6 - 2


@pytest.fixture(scope="module")
def tight(engines, node):
    options = ["--num-gpu-blocks-override", str(KV_BLOCKS), "--max-model-len", "2048"]
    options += ["--max-num-batched-tokens", "256"]
    return engines([node.port], "--no-enable-prefix-caching", *options, connector={"trace": False})


def test_preempted_requests_say_what_they_say_alone(tight, first, make_prompt, show):
    prompts = [make_prompt(PROMPT_TOKENS, 600 + number) for number in range(REQUESTS)]
    with tight.counted() as grown, ThreadPoolExecutor(REQUESTS) as pool:
        together = list(pool.map(lambda prompt: tight.tokens(prompt, OUTPUT_TOKENS), prompts))
    show(f"{grown['num_preemptions']:.0f} preemptions, {grown['load_blocks']:.0f} blocks loaded after them")
    assert grown["num_preemptions"] > 0
    assert grown["load_blocks"] > 0
    assert [first.tokens(prompt, OUTPUT_TOKENS) for prompt in prompts] == together
    # Stored in chunks of 256 tokens, loaded whole, without any prefix cache of the engine's own.
    with tight.counted() as grown:
        assert tight.tokens(prompts[0], OUTPUT_TOKENS) == together[0]
    assert grown["load_blocks"] == PROMPT_TOKENS // 128
