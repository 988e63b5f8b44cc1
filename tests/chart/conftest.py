"""Helm itself, and what it makes of the chart."""

import subprocess
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.helm import helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "kvtide"


@pytest.fixture(scope="session")
def run_helm() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs helm with arguments; values as a dictionary."""
    program = helm()

    def run(*arguments: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments, "--values=-"],
            input=yaml.safe_dump(values or {}),
            text=True,
            capture_output=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def render(run_helm) -> Callable[..., dict[str, dict[str, Any]]]:
    """The objects of the chart by ``Kind/namespace/name``, as an install would make them."""

    @cache
    def made(values: str, release: str) -> list[dict[str, Any]]:
        arguments = ["template", release, str(CHART), "--namespace=kvtide-system"]
        done = run_helm(*arguments, values=yaml.safe_load(values))
        assert done.returncode == 0, done.stderr
        return [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]

    def rendered(values: dict[str, Any] | None = None, release: str = "kvtide") -> dict[str, dict[str, Any]]:
        objects = deepcopy(made(yaml.safe_dump(values or {}), release))
        named = {
            "/".join((each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])): each
            for each in objects
        }
        assert len(named) == len(objects), "two objects of one name"
        return named

    return rendered
