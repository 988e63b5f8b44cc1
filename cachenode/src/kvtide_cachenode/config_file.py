"""Options from a TOML file: `--dram 4Gi` is ``dram = "4Gi"``. Environment and command line go before it."""

import tomllib
from pathlib import Path

import click


def read_config(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    """Take the file's values as the defaults of the command's other options (a click callback)."""
    if file is None:
        return None
    try:
        document = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{file} cannot be read: {error}", context, parameter) from None
    except tomllib.TOMLDecodeError as error:
        raise click.BadParameter(f"{file} is not TOML: {error}", context, parameter) from None
    known = {
        option.lstrip("-"): other.name
        for other in context.command.params
        if isinstance(other, click.Option) and other is not parameter and other.name is not None
        for option in other.opts
    }
    for name, value in document.items():
        if name not in known:
            raise click.BadParameter(
                f"{file}: {name!r} is no option; known: {', '.join(sorted(known))}", context, parameter
            )
        if isinstance(value, dict | list):
            raise click.BadParameter(
                f"{file}: {name} must be text, a number or true/false", context, parameter
            )
    context.default_map = {known[name]: value for name, value in document.items()}
    return file
