"""A node that dies, lies or falls silent costs time, never a token."""

import time

import pytest
from engine_tests.processes import FAULTY_PATIENCE_S, SETTLE_S

pytestmark = pytest.mark.timeout(1200)

PROMPT_TOKENS = 900
BLOCKS = PROMPT_TOKENS // 128
STEPS_S = 5.0
FAULT_BYTES = 20_000_000  # of answers; a prompt has 41 MB


@pytest.fixture(scope="module")
def answer(first, make_prompt):
    """What is right, and how long it takes to compute."""
    prompt = make_prompt(PROMPT_TOKENS, 200)
    began_s = time.monotonic()
    tokens = first.tokens(prompt)
    return prompt, tokens, time.monotonic() - began_s


@pytest.fixture
def healthy(second, proxy, node, answer):
    """The second engine loads from the node through the proxy, and has nothing of its own."""
    proxy.serve(node.port)
    second.settle(answer[0])
    yield second
    proxy.serve(node.port)


def ask(engine, answer, show, what, is_found=True):
    """The answer is right and in time; how the counters grew.

    A thread may have kept a connection that the proxy has closed since: what it finds out then is a miss, so
    the question is asked again until blocks are found.
    """
    prompt, tokens, cold_s = answer
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        with engine.counted() as grown:
            began_s = time.monotonic()
            assert engine.tokens(prompt) == tokens
            took_s = time.monotonic() - began_s
        if grown["loads"] or not is_found:
            break
        assert time.monotonic() < deadline_s, "the engine does not come back to the node"
        engine.forget()
    show(
        f"{what}: {took_s:.1f} s, cold {cold_s:.1f} s; {grown['load_blocks']:.0f} of {BLOCKS} blocks loaded,"
        f" {grown['load_damaged_blocks']:.0f} damaged, {grown['lookup_timeouts']:.0f} look-ups timed out"
    )
    # One look-up, one load, and steps of an engine that has to share its cores. All else is computing.
    assert grown["request_queue_time_seconds_sum"] <= 2 * FAULTY_PATIENCE_S + STEPS_S
    return grown


def test_a_node_killed_while_loading(healthy, proxy, answer, show, start_node):
    other = start_node()
    proxy.serve(other.port)
    healthy.settle(answer[0])

    def kill(answered_bytes, piece):
        if answered_bytes > FAULT_BYTES and other.process.poll() is None:
            other.kill()
        return piece

    proxy.misbehave(kill)
    grown = ask(healthy, answer, show, "killed")
    assert other.process.poll() is not None
    assert grown["load_failed_blocks"] > 0


def test_a_node_that_answers_garbage(healthy, proxy, answer, show):
    def lie(answered_bytes, piece):
        if answered_bytes < FAULT_BYTES:
            return piece
        middle = len(piece) // 2
        return piece[:middle] + bytes([piece[middle] ^ 255]) + piece[middle + 1 :]

    proxy.misbehave(lie)
    grown = ask(healthy, answer, show, "garbage")
    assert grown["load_damaged_blocks"] + grown["node_errors"] > 0
    # What was wrong is computed and stored anew.
    proxy.fault = None
    healthy.forget()
    assert ask(healthy, answer, show, "after garbage")["load_damaged_blocks"] == 0


def test_a_node_whose_every_block_is_wrong(healthy, proxy, answer, show):
    def lie(_, piece):
        if len(piece) < 1000:
            return piece  # of a look-up, so that the blocks are found again and again
        middle = len(piece) // 2
        return piece[:middle] + bytes([piece[middle] ^ 255]) + piece[middle + 1 :]

    proxy.misbehave(lie)
    grown = ask(healthy, answer, show, "all wrong")
    assert grown["load_damaged_blocks"] == BLOCKS
    assert grown["loads"] == 1


def test_a_node_that_falls_silent_while_loading(healthy, proxy, answer, show):
    proxy.misbehave(lambda answered_bytes, piece: piece if answered_bytes < FAULT_BYTES else None)
    grown = ask(healthy, answer, show, "silent while loading")
    assert grown["load_failed_blocks"] > 0


def test_a_node_that_is_silent_when_asked(healthy, proxy, answer, show):
    proxy.misbehave(lambda _, __: None)
    grown = ask(healthy, answer, show, "silent when asked", is_found=False)
    assert grown["load_blocks"] == 0


def test_a_request_cancelled_while_loading_leaves_nothing_behind(healthy, proxy, answer):
    proxy.misbehave(lambda answered_bytes, piece: piece if answered_bytes < FAULT_BYTES else None)
    with pytest.raises(TimeoutError):
        healthy.complete(answer[0], patience_s=1.0)
    proxy.fault = None
    deadline_s = time.monotonic() + 60
    while healthy.counters()["vllm:kv_cache_usage_perc"]:
        assert time.monotonic() < deadline_s, "a cancelled request keeps its blocks"
        time.sleep(0.2)
    assert healthy.tokens(answer[0]) == answer[1]
