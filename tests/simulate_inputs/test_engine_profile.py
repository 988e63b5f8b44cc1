"""Profiles: those that ship, those that users bring, and the command that lists and makes them."""

import json
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvtide_operator.cli.engine import command
from kvtide_operator.simulate.engine.model import geometry
from kvtide_operator.simulate.engine.profile import GpuMemory, ProfileError, parse_profile
from kvtide_operator.simulate.engine.profiles import find_profile, shipped
from kvtide_operator.simulate.engine.step_times import decode_step_s, prefill_chunk_s, step_s
from kvtide_operator.simulate.engine.tabulate import Identity, octaves, tabulate, to_json

H100 = "llama-3.1-8b_h100_sxm_vllm"
FOLDER = resources.files("kvtide_operator.simulate.engine.profiles")


def document(name: str = H100) -> dict[str, Any]:
    loaded = json.loads(FOLDER.joinpath(f"{name}.json").read_bytes())
    assert isinstance(loaded, dict)
    return loaded


def test_the_published_set_ships_small_and_with_its_source() -> None:
    profiles = shipped()
    assert {(p.system, p.engine, p.gpus) for p in profiles.values()} >= {
        ("h100_sxm", "vllm", 1),
        ("a100_sxm", "vllm", 1),
        ("h200_sxm", "sglang", 8),
    }
    for name, profile in profiles.items():
        assert len(FOLDER.joinpath(f"{name}.json").read_bytes()) < 40_000
        assert profile.source.startswith("aiconfigurator-core 0.")
        assert profile.engine_version
        assert profile.date >= "2026-11-21"
        assert profile.layers == geometry(profile.model).layers


@pytest.mark.parametrize("name", sorted(shipped()))
def test_the_kv_room_follows_from_the_memory_in_the_file(name: str) -> None:
    file = document(name)
    memory = file["memory"]
    free = memory["gpu_bytes"] * memory["utilisation"] - memory["weights_bytes"] - memory["overhead_bytes"]
    assert file["kv_capacity_tokens"] == int(free / memory["kv_bytes_per_token"])
    assert memory["kv_bytes_per_token"] * file["gpus"] == geometry(file["model"]).kv_bytes_per_token


def test_times_seen_on_the_source_itself() -> None:
    """What aiconfigurator-core 0.12 answers for Llama-3.1-8B on one H100, but for smoothing."""
    tables = find_profile("meta-llama/Llama-3.1-8B-Instruct", "h100_sxm", "vllm").tables
    assert prefill_chunk_s(tables, 2048.0, 0.0) == pytest.approx(0.04351, rel=0.02)
    assert prefill_chunk_s(tables, 2048.0, 6144.0) == pytest.approx(0.05343, rel=0.02)
    assert prefill_chunk_s(tables, 8192.0, 0.0) == pytest.approx(0.19972, rel=0.02)
    assert decode_step_s(tables, 32.0, 4097.0) == pytest.approx(0.01235, rel=0.02)
    assert step_s(tables, 640.0 - 128, 0.0, 128.0, 513.0) == pytest.approx(0.018268, rel=0.02)


def test_a_profile_is_found_by_any_name_of_its_model() -> None:
    found = find_profile("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "h200_sxm", "SGLANG")
    assert (found.gpus, found.layers) == (8, 62)


def test_a_missing_profile_says_what_there_is_and_how_to_make_it() -> None:
    with pytest.raises(
        ProfileError, match=rf"{H100}.*kvtide engine profile --model Llama-3.1-8B --system b200"
    ):
        find_profile("Llama-3.1-8B", "b200", "VLLM")
    with pytest.raises(ProfileError, match="4 x h100_sxm"):
        find_profile("Llama-3.1-8B", "h100_sxm", "vllm", gpus=4)


def broken(path: str, value: Any) -> bytes:
    """The H100 profile with one value replaced; a path such as ``linear.seconds.3``."""
    loaded = document()
    place: Any = loaded
    *parents, last = path.split(".")
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(loaded).encode()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 2, "mine.json has format 2; this version reads format 1"),
        ("gpus", 0, "gpus is 0; it must be a positive number"),
        ("gpus", "one", r"not an engine profile: Expected `int`, got `str` - at `\$.gpus`"),
        ("extra", 1, "unknown field `extra`"),
        ("linear.seconds.0", 0.0, "linear.seconds starts with 0.0; no step takes no time"),
        ("linear.seconds.5", -1.0, "linear.seconds has a negative or infinite time"),
        ("linear.seconds.5", 0.5, r"linear.seconds: .*does not rise with more work.*measure again"),
        ("linear.tokens.5", 5.0, "linear.tokens goes from 5 to 5; every point must be above the one before"),
        ("linear.tokens", [1.0], "linear.tokens has 1 points; at least two are needed"),
        ("decode_attention.context_tokens.0", -4.0, "goes from -4 to 131072; keep it from 0"),
        (
            "decode_attention.seconds",
            [[1.0, 2.0]],
            r"decode_attention.seconds has 1 x 2 numbers; its axes need",
        ),
        ("prefill_attention.seconds.3", [1.0], "prefill_attention.seconds has rows of different lengths"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_in_a_sentence(path: str, value: Any, message: str) -> None:
    with pytest.raises(ProfileError, match=message) as caught:
        parse_profile(broken(path, value), "mine.json")
    assert str(caught.value).startswith("mine.json")


def test_a_file_that_is_not_json_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"^mine\.json is not an engine profile"):
        parse_profile(b"\xff{", "mine.json")


def test_a_little_noise_is_smoothed() -> None:
    seconds = document()["linear"]["seconds"]
    profile = parse_profile(broken("linear.seconds.20", seconds[19] * 0.97), "mine.json")
    assert prefill_chunk_s(profile.tables, 80.0, 0.0) >= prefill_chunk_s(profile.tables, 64.0, 0.0)


class Machine:
    """A machine whose times are known: 1 ms, 10 us a token, 1 ns a pair of tokens; decoding dips once."""

    def linear_s(self, tokens: int) -> float:
        return 1e-3 + 1e-5 * tokens

    def prefill_s(self, new: int, cached: int) -> float:
        return self.linear_s(new) + 1e-9 * new * (cached + new / 2)

    def decode_s(self, batch: int, context: int) -> float:
        dip = 0.9 if (batch, context) == (8, 1024) else 1.0
        return self.linear_s(batch) + 1e-9 * batch * context * dip


def test_tabulating_a_known_machine_gives_its_times_back() -> None:
    memory = GpuMemory(
        gpu_bytes=1000, utilisation=0.9, weights_bytes=300, overhead_bytes=100, kv_bytes_per_token=50
    )
    identity = Identity(
        model="m", system="s", engine="vllm", engine_version="1", parallelism={"tensor": 1}, gpus=1, layers=2,
        memory=memory, source="by hand", date="2026-11-21",
    )  # fmt: skip
    file = tabulate(Machine(), identity)
    assert file.kv_capacity_tokens == 10
    profile = parse_profile(to_json(file), "machine.json")
    for new, cached, batch, context in [
        (1000, 3000, 17, 5000),
        (77, 0, 0, 0),
        (0, 0, 300, 90_000),
        (9000, 40_000, 3, 99),
    ]:
        known = Machine().linear_s(new + batch) + 1e-9 * (new * (cached + new / 2) + batch * context)
        found = step_s(profile.tables, float(new), float(cached), float(batch), float(context))
        assert found == pytest.approx(known, rel=0.01)


def test_octaves_are_whole_numbers_between_powers_of_two() -> None:
    assert octaves(1, 16, 4) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16]
    assert octaves(16, 70, 1) == [16, 32, 64, 70]


def test_the_command_lists_what_ships() -> None:
    result = CliRunner().invoke(command, ["profiles"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) == 1 + len(shipped())
    assert "432,992" in result.output


@pytest.mark.skipif(find_spec("aiconfigurator_core") is not None, reason="the package is installed")
def test_making_a_profile_without_the_package_says_what_to_install(tmp_path: Path) -> None:
    arguments = ["profile", "--model", "m", "--system", "s", "--engine", "vllm", "-o", str(tmp_path / "x")]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert "pip install aiconfigurator-core" in result.output
    assert not (tmp_path / "x").exists()


def test_making_a_profile_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    arguments = [
        "profile",
        "--model",
        "m",
        "--system",
        "s",
        "--engine",
        "vllm",
        "-o",
        str(tmp_path / "no" / "x"),
    ]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert "No such file or directory; write elsewhere" in result.output
