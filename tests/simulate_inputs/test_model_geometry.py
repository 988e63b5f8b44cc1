"""Bytes per token and per block, against figures worked by hand."""

import pytest

from kvtide_operator.simulate.engine.model import GeometryError, geometry

MIB = 1 << 20


def test_a_512_token_block_of_llama_8b_in_fp16_is_64_mib() -> None:
    assert geometry("meta-llama/Llama-3.1-8B-Instruct", "float16").block_bytes(512) == 64 * MIB


@pytest.mark.parametrize(
    ("name", "layers", "kv_bytes"),
    [
        ("Llama-3.1-70B", 80, 80 * 2 * 8 * 128 * 2),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", 62, 253_952),
        ("deepseek-ai/DeepSeek-V3", 61, 61 * 576 * 2),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 30, 23_040),
    ],
)
def test_known_models(name: str, layers: int, kv_bytes: int) -> None:
    model = geometry(name)
    assert (model.layers, model.kv_bytes_per_token) == (layers, kv_bytes)


@pytest.mark.parametrize(
    "name",
    [
        "meta-llama/Meta-Llama-3.1-8B",
        "meta-llama/Llama-3.1-8B-Instruct",
        "LLAMA-3.1-8b",
        "someone/Llama-3.1-8B-Instruct-FP8",
    ],
)
def test_variants_of_a_name_share_its_geometry(name: str) -> None:
    assert geometry(name).kv_bytes_per_token == 131_072


def test_a_distilled_model_is_not_taken_for_its_teacher() -> None:
    with pytest.raises(GeometryError, match="DeepSeek-R1-Distill-Qwen-7B"):
        geometry("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")


def test_the_dtype_scales_the_bytes() -> None:
    assert (
        geometry("Qwen3-8B", "fp8").kv_bytes_per_token * 4
        == geometry("Qwen3-8B", "float32").kv_bytes_per_token
    )


def test_given_fields_override_known_ones() -> None:
    assert geometry("Llama-3.1-8B", layers=2, kv_heads=3, head_dim=5).kv_bytes_per_token == 2 * 2 * 3 * 5 * 2
    hybrid = geometry("Llama-3.1-8B", kv_bytes_per_token=1000)
    assert (hybrid.layers, hybrid.kv_bytes_per_token) == (32, 1000)
    assert geometry("mine", kv_bytes_per_token=1000).layers == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give layers, kvHeads and headDim, or kvBytesPerToken .*known: .*Llama-3.1-8B"),
        ({"layers": 3, "kv_heads": 1}, "headDim missing"),
        ({"layers": 0, "kv_heads": 1, "head_dim": 8}, "layers is 0"),
        ({"kv_bytes_per_token": -5}, "kvBytesPerToken is -5"),
    ],
)
def test_what_cannot_be_worked_out_is_said(fields: dict[str, int], message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        geometry("mine", "bfloat16", **fields)


def test_an_unknown_dtype_lists_the_known_ones() -> None:
    with pytest.raises(GeometryError, match=r"'fp4'.*bfloat16"):
        geometry("Qwen3-8B", "fp4")
