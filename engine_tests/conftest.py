"""Real engines on real nodes. Starting an engine takes most of a minute, so tests share them."""

import statistics
from contextlib import ExitStack, contextmanager

import pytest
from engine_tests.processes import (
    BLOCK_TOKENS,
    FAULTY_PATIENCE_S,
    FOLDER,
    KVTIDE_COMMAND,
    TIGHT_KV_BLOCKS,
    Engine,
    Node,
    Proxy,
)


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    """Runs engines, given as arguments of `Engine`, which start together: each needs a core for a minute."""

    @contextmanager
    def run(*settings):
        with ExitStack() as stack:
            engines = []
            for ports, options, more in settings:
                engines.append(Engine(ports, tmp_path_factory.mktemp("engine") / "log", *options, **more))
                stack.callback(engines[-1].stop)
            for engine in engines:
                engine.wait()
            yield engines

    return run


@pytest.fixture(scope="session")
def node():
    """The node of most tests: all they store fits."""
    node = Node("--dram", "4Gi")
    yield node
    node.stop()


@pytest.fixture(scope="session")
def proxy(node):
    proxy = Proxy(node.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def float32_engines(running, node, proxy):
    tight = ["--no-enable-prefix-caching", "--num-gpu-blocks-override", str(TIGHT_KV_BLOCKS)]
    tight += ["--max-model-len", "2048", "--max-num-batched-tokens", "256"]
    untraced = {"trace": False}
    faulty = untraced | {"load_timeout_s": FAULTY_PATIENCE_S, "lookup_timeout_s": FAULTY_PATIENCE_S}
    with running(
        ([node.port], [], {}),
        ([proxy.port], [], {"connector": faulty}),
        ([node.port], tight, {"connector": untraced}),
    ) as engines:
        yield engines


@pytest.fixture(scope="session")
def first(float32_engines):
    """A float32 engine, directly at the node."""
    return float32_engines[0]


@pytest.fixture(scope="session")
def second(float32_engines):
    """Another one, whose bytes all go through the proxy."""
    return float32_engines[1]


@pytest.fixture(scope="session")
def tight(float32_engines):
    """One with `TIGHT_KV_BLOCKS`, parts of 256 tokens and no prefix cache of its own."""
    return float32_engines[2]


def prompt_of(tokens, seed):
    """A list of token ids that no other seed begins with."""
    state = seed * 7919 + 17
    ids = []
    for _ in range(tokens):
        state = (state * 1103515245 + 12345) % 2**31
        ids.append(state // 65536 % 40000 + 100)
    return ids


@pytest.fixture(scope="session")
def model():
    """The model's folder."""
    return FOLDER / "model"


@pytest.fixture
def start_node():
    """Starts nodes; ends them when the test does."""
    with ExitStack() as stack:

        def start(*options):
            node = Node("--dram", "1Gi", *options)
            stack.callback(node.stop)
            return node

        yield start


@pytest.fixture(scope="session")
def make_prompt():
    return prompt_of


@pytest.fixture(scope="session")
def kvtide():
    """The command, whose environment is not the engine's."""
    return KVTIDE_COMMAND


@pytest.fixture
def show(capsys):
    """Prints figures past pytest's capture."""

    def say(*lines):
        with capsys.disabled():
            print("", *lines, sep="\n    ")

    return say


@pytest.fixture
def measure_ttft(node, show):
    """Times to the first token of 2,000-token prompts: cold, from vLLM's own cache, and from the node."""
    parts = ("queue", "prefill", "lookup", "load", "load_wait", "transfer", "check", "scatter")

    def measure(engine, title):
        seconds: dict[str, list[float]] = {"cold": [], "own": [], "external": []}
        sums = dict.fromkeys(((kind, part) for kind in ("own", "external") for part in parts), 0.0)
        for run in range(5):
            prompt = prompt_of(2000, 70 + run)
            with node.storing(2000 // BLOCK_TOKENS):
                seconds["cold"].append(engine.ttft_s(prompt))
            for kind in ("own", "external"):
                if kind == "external":
                    engine.forget()
                with engine.counted() as grown:
                    seconds[kind].append(engine.ttft_s(prompt))
                grown |= {"queue_seconds": grown["request_queue_time_seconds_sum"]}
                grown |= {"prefill_seconds": grown["request_prefill_time_seconds_sum"]}
                for part in parts:
                    sums[kind, part] = sums[kind, part] + grown[f"{part}_seconds"] / 5
            assert grown["load_blocks"] == 2000 // BLOCK_TOKENS
        cold, own, external = (statistics.median(seconds[kind]) for kind in ("cold", "own", "external"))
        show(
            f"{title}, 2,000 tokens, medians of 5: cold {cold:.3f} s, own prefix cache {own:.3f} s, external"
            f" {external:.3f} s = {external / own:.2f} × own, {external / cold:.3f} × cold",
            *(
                f"mean ms, {kind}: " + ", ".join(f"{part} {sums[kind, part] * 1e3:.0f}" for part in parts)
                for kind in ("own", "external")
            ),
        )

    return measure
