"""Options that several commands have: the same thing has the same name everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def manifest(*, required: bool = True, what: str = "Manifest.") -> Decorator:
    """``-f``: what is declared of a cache."""
    return click.option(
        "-f", "--file", "manifest_file", required=required, type=click.Path(path_type=Path), help=what
    )


def as_json(what: str = "Print one JSON object.") -> Decorator:
    """``--json``: for scripts."""
    return click.option("--json", "as_json", is_flag=True, help=what)


def seed(what: str, default: int = 0) -> Decorator:
    """``--seed``: equal seeds give equal results."""
    return click.option(
        "--seed", type=click.IntRange(min=0), default=default, show_default=True, help=f"Of {what}."
    )


def output(what: str, *, required: bool = False) -> Decorator:
    """``-o``: the file to write."""
    return click.option(
        "-o", "--output", required=required, type=click.Path(dir_okay=False, path_type=Path), help=what
    )
