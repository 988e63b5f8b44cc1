"""`kvtide engine profiles`, `kvtide engine profile`: the profiles that ship, and making new ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvtide_operator.cli import options
from kvtide_operator.cli.errors import UserError
from kvtide_operator.cli.output import check_writable, write_file

if TYPE_CHECKING:
    from kvtide_operator.simulate.engine.tabulate import Identity

MEMORY_UTILISATION = 0.9
"""Part of a GPU's memory that the engine may take: the default of vLLM's --gpu-memory-utilization."""

MAX_STEP_TOKENS, MAX_BATCH = 8192, 256
"""Tokens and sequences of the largest step, which size the activations. Chosen by us: they move the KV
capacity by about 2 % on an 80 GiB GPU, and the file says what was taken off."""

PACKAGE = "aiconfigurator-core"


@click.command("profiles")
def profiles() -> None:
    """List the profiles that ship."""
    from kvtide_operator.simulate.engine.profiles import shipped

    header = ("name", "model", "system", "GPUs", "engine", "KV tokens", "source")
    rows = [
        (
            name,
            profile.model.rsplit("/", 1)[-1],
            profile.system,
            str(profile.gpus),
            f"{profile.engine} {profile.engine_version}",
            f"{profile.kv_capacity_tokens:,}",
            f"{profile.source}, {profile.date}",
        )
        for name, profile in shipped().items()
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@click.command("profile")
@click.option("--model", required=True, help="Name on Hugging Face, such as Qwen/Qwen3-32B.")
@click.option("--system", required=True, help="GPU system, such as h100_sxm.")
@click.option("--engine", required=True, type=click.Choice(["vllm", "sglang"], case_sensitive=False))
@click.option("--tp", default=1, type=click.IntRange(1, 64), help="Tensor-parallel GPUs.  [default: 1]")
@click.option("--moe-tp", type=click.IntRange(1, 64), help="Tensor-parallel GPUs of the experts.")
@click.option("--moe-ep", type=click.IntRange(1, 64), help="Expert-parallel GPUs.")
@options.output("The profile to write.", required=True)
def profile(
    model: str, system: str, engine: str, tp: int, moe_tp: int | None, moe_ep: int | None, output: Path
) -> None:
    """Tabulate measured kernel times into a profile (needs aiconfigurator-core; no GPU)."""
    from kvtide_operator.simulate.engine.tabulate import tabulate, to_json

    check_writable("-o", output)
    steps, identity = _measured(model, system, engine.lower(), tp, moe_tp, moe_ep)
    file = tabulate(steps, identity)
    if file.kv_capacity_tokens <= 0:
        raise UserError(
            f"{model} leaves no room for KV on {identity.gpus} x {system}; use more GPUs with --tp"
        )
    write_file("-o", output, to_json(file))
    click.echo(
        f"{output}: {file.kv_capacity_tokens:,} KV tokens on {file.gpus} x {system};"
        f" smoothing changed no step by more than {file.largest_correction:.1%}"
    )


class _AiConfigurator:
    """Step times of aiconfigurator-core's compiled engine, in seconds."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def linear_s(self, tokens: int) -> float:
        """Its part of a mixed step that attention has no share in; it depends on the tokens alone."""
        return float(self._handle.mixed_step_breakdown(tokens, 0, tokens, 2, 0)[1]) / 1e3

    def prefill_s(self, new: int, cached: int) -> float:
        """One sequence; the input length includes the cached prefix."""
        return float(self._handle.predict_prefill_latency(1, new + cached, cached)) / 1e3

    def decode_s(self, batch: int, context: int) -> float:
        """Output length 2 is one step, taken at one token more than the input length."""
        return float(self._handle.decode_step_latency(batch, context - 1, 2)) / 1e3


def _measured(
    model: str, system: str, engine: str, tp: int, moe_tp: int | None, moe_ep: int | None
) -> "tuple[_AiConfigurator, Identity]":
    """Compiles the engine and asks for its memory.

    Raises:
        UserError: the package is missing, or knows no such model, system or parallelism.
    """
    from datetime import UTC, datetime
    from importlib import import_module, metadata

    from kvtide_operator.simulate.engine.profile import GpuMemory
    from kvtide_operator.simulate.engine.tabulate import Identity

    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        raise UserError(f"{PACKAGE} is not installed; install it with `pip install {PACKAGE}`") from None
    databases = import_module("aiconfigurator_core.sdk.perf_database")
    unknown_model = import_module("aiconfigurator_core.sdk.utils").HuggingFaceDownloadError
    parallel = {"tp_size": tp, "moe_tp_size": moe_tp, "moe_ep_size": moe_ep}
    try:
        engine_version = databases.resolve_query_version(system, engine, "current")
        handle = import_module("aiconfigurator_core.sdk.engine").EngineHandle.compile(
            model, system, engine, **parallel
        )
        room = import_module("aiconfigurator_core.sdk.memory").estimate_kv_cache(
            model, system, engine, engine_version,
            max_num_tokens=MAX_STEP_TOKENS, max_batch_size=MAX_BATCH,
            memory_fraction_kind="of_total", memory_fraction_value=MEMORY_UTILISATION, **parallel,
        )  # fmt: skip
        layers = import_module("aiconfigurator_core.sdk.utils").get_model_config_from_model_path(model)[
            "layers"
        ]
    except unknown_model:
        raise UserError(
            f"{PACKAGE} {version} has no configuration of model {model!r}; check its name"
        ) from None
    except (ValueError, KeyError, RuntimeError, AssertionError) as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(
            f"{PACKAGE} {version} cannot model {model} on {system} with {engine}: {first_line}"
        ) from None
    parts = room["memory_breakdown"]
    memory = GpuMemory(
        gpu_bytes=room["total_gpu_capacity_bytes"],
        utilisation=MEMORY_UTILISATION,
        weights_bytes=parts["weights_bytes"],
        overhead_bytes=sum(value for name, value in parts.items() if name != "weights_bytes"),
        kv_bytes_per_token=room["kv_size_per_token_bytes"],
    )
    return _AiConfigurator(handle), Identity(
        model=model,
        system=system,
        engine=engine,
        engine_version=engine_version,
        parallelism={"tensor": tp, "moe_tensor": moe_tp or 1, "moe_expert": moe_ep or 1},
        gpus=tp,
        layers=layers,
        memory=memory,
        source=f"{PACKAGE} {version}",
        date=datetime.now(tz=UTC).date().isoformat(),
    )
