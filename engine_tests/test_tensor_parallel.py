"""A model over three ranks: each keeps its part of a block under a key of its own."""

import pytest
from engine_tests.processes import Node

pytestmark = pytest.mark.timeout(1200)

RANKS, PROMPT_TOKENS = 3, 600
BLOCKS = PROMPT_TOKENS // 128


@pytest.fixture(scope="module")
def prompt(make_prompt):
    return make_prompt(PROMPT_TOKENS, 900)


@pytest.fixture(scope="module")
def three_ranks(running):
    """An engine of three ranks, and its node."""
    node = Node("--dram", "1Gi")
    options = ["--tensor-parallel-size", str(RANKS), "--max-model-len", "2048"]
    with running(([node.port], options, {})) as (engine,):
        yield engine, node
    node.stop()


def test_parts_of_all_ranks_are_stored_and_loaded(three_ranks, prompt):
    engine, node = three_ranks
    with node.storing(RANKS * BLOCKS):
        said = engine.tokens(prompt)
    engine.forget()
    with engine.counted() as grown:
        assert engine.tokens(prompt) == said
    assert grown["load_blocks"] == RANKS * BLOCKS
    assert grown["load_failed_blocks"] == 0


def test_a_block_that_lacks_the_part_of_a_rank_is_computed(three_ranks, prompt):
    engine, node = three_ranks
    said = engine.tokens(prompt)
    _, keys = node.ask(b"SCAN", b"0", b"COUNT", b"1000")
    (lost,) = [key for key in keys if b":1-3x1:" in key and key.split(b":")[-2] == b"2"]
    assert node.ask(b"DEL", lost) == 1
    engine.forget()
    with node.storing(1), engine.counted() as grown:
        assert engine.tokens(prompt) == said
    assert grown["load_blocks"] == RANKS * 2
