"""In bfloat16 vLLM itself is not reproducible; adapters never share."""

import json

import pytest
import torch
from engine_tests.processes import fetch
from safetensors.torch import save_file

pytestmark = pytest.mark.timeout(1200)

OUTPUT_TOKENS = 24


def write_adapter(folder, seed):
    """A LoRA adapter of random numbers for the query projections."""
    folder.mkdir(exist_ok=True)
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(30):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(8, 576, generator=random).bfloat16()
        weights[f"{name}.lora_B.weight"] = (torch.randn(576, 8, generator=random) / 10).bfloat16()
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}
    settings |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": "smol", "lora_dropout": 0.0}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def engine(running, node, folder):
    adapters = [f"{name}={write_adapter(folder / name, seed)}" for seed, name in enumerate(("red", "blue"))]
    options = ("--enable-lora", "--max-lora-rank", "8", "--max-loras", "2", "--lora-modules", *adapters)
    more = {"dtype": "bfloat16", "environment": {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}}
    with running(([node.port], options, more)) as (engine,):
        yield engine


def test_adapters_do_not_share(engine, node, make_prompt):
    prompt = make_prompt(400, 400)
    with engine.counted() as grown, node.storing(9):
        for model in ("red", "blue", "smol"):
            engine.tokens(prompt, 2, model=model)
    assert grown["external_prefix_cache_hits"] == 0
    engine.forget()
    with engine.counted() as grown:
        for model in ("red", "blue", "smol"):
            engine.tokens(prompt, 2, model=model)
    assert grown["external_prefix_cache_hits"] == 9 * 128


@pytest.mark.parametrize(("name", "is_inplace"), [("red", True), ("blue", False)])
def test_an_adapter_replaced_under_its_name_and_path_shares_nothing_with_the_old(
    engine, node, folder, make_prompt, name, is_inplace
):
    prompt = make_prompt(400, 401 + is_inplace)
    with node.storing(3):
        engine.tokens(prompt, 2, model=name)
    write_adapter(folder / name, 7 + is_inplace)
    # What vLLM has in its memory is not what lies there: neither loaded nor stored.
    engine.forget()
    with engine.counted() as grown, node.storing(0):
        engine.tokens(prompt, 2, model=name)
    assert grown["external_prefix_cache_hits"] == 0
    if not is_inplace:
        post(engine, "unload", lora_name=name)
    post(engine, "load", lora_name=name, lora_path=str(folder / name), load_inplace=is_inplace)
    # Its own cache has the old adapter's blocks: what is computed on them is not stored.
    with node.storing(0):
        engine.tokens(prompt + make_prompt(200, 403), 2, model=name)
    for hit_blocks in (0, 3):
        engine.forget()
        with engine.counted() as grown, node.storing(3 - hit_blocks):
            engine.tokens(prompt, 2, model=name)
        assert grown["external_prefix_cache_hits"] == hit_blocks * 128


def post(engine, verb, **what):
    """Tell vLLM about an adapter; it answers in words."""
    fetch(f"{engine.url}/v1/{verb}_lora_adapter", what)


def test_differences_in_bfloat16_are_near_ties(engine, node, make_prompt, show):
    cold, own, external = [], [], []
    lengths = range(390, 470, 10)
    with engine.counted() as grown:
        for length in lengths:
            prompt = make_prompt(length, 410 + length)
            with node.storing((length + OUTPUT_TOKENS - 1) // 128):
                cold.append(engine.complete(prompt, OUTPUT_TOKENS, logprobs=2))
            own.append(engine.complete(prompt, OUTPUT_TOKENS, logprobs=2))
            engine.forget()
            external.append(engine.complete(prompt, OUTPUT_TOKENS, logprobs=2))
            engine.forget()
    assert grown["load_blocks"] == sum(length // 128 for length in lengths)
    assert not grown["load_damaged_blocks"]  # every byte loaded is the byte stored
    gaps = {name: differences(cold, other) for name, other in (("own", own), ("external", external))}
    show(
        f"bfloat16, {len(lengths)} prompts, {OUTPUT_TOKENS} tokens: differing from cold "
        + ", ".join(
            f"{name} cache {len(found)} (top-2 gaps {', '.join(f'{gap:.2f}' for gap in found) or '-'})"
            for name, found in gaps.items()
        )
    )
    assert all(gap <= 0.25 for gap in gaps["external"])


def test_time_to_first_token_in_bfloat16(engine, measure_ttft):
    measure_ttft(engine, "bfloat16")


def differences(ones, others):
    """The gap in nats between the best two tokens where each differing pair differs first."""
    gaps = []
    for one, other in zip(ones, others, strict=True):
        pairs = zip(one["token_ids"], other["token_ids"], strict=True)
        at = next((at for at, (token, another) in enumerate(pairs) if token != another), None)
        if at is not None:
            best = sorted(one["logprobs"]["top_logprobs"][at].values(), reverse=True)
            gaps.append(best[0] - best[1])
    return gaps
