"""The `kvtide` command: one file per sub-command, imported only when it is called."""

from importlib import import_module

import click

from kvtide_cachenode.contract.command_line import Group

COMMANDS = {
    "curve": "Hit ratio against capacity, for every capacity in one pass.",
    "demo": "Watch two cache nodes being sized for a workload.",
    "engine": "Step times of inference engines, and the simulator against a real one.",
    "plan": "The frontier of cost, throughput and latency, and the point to take.",
    "replay": "Play a trace against a Redis-protocol server.",
    "simulate": "What one configuration of the tiers yields on a trace.",
    "trace": "Generate traces and look at them.",
    "up": "Run cache nodes on this machine and keep them at the right size.",
}


class _LazyGroup(Group):
    """Lists sub-commands without importing them: numpy and numba cost more than `--help` may."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"{__name__}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "-V", "--version", package_name="kvtide", prog_name="kvtide")
def main() -> None:
    """Keep the KV cache of an LLM fleet at the right size, at the right price, while it is being used."""
