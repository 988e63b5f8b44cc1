"""The commands of the pages run as they are printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kvtide_cachenode.contract import command_line

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGE = (ROOT / "docs" / "commands.md").read_text("utf-8")
WALK = re.search(r"## A plan in five commands\n\n```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.timeout(240)
def test_the_five_commands_of_a_plan(tmp_path: Path) -> None:
    assert WALK is not None
    commands = WALK[1].splitlines()
    assert len(commands) == 5
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "kvtide").symlink_to(Path(sys.executable).with_name("kvtide"))
    for command in commands:
        done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert {"chat.jsonl", "curve.svg", "plan.html"} <= {file.name for file in tmp_path.iterdir()}


def test_no_page_says_that_kvtide_is_published() -> None:
    for page in PAGES:
        assert not re.search(r"pip install kvtide", page.read_text("utf-8")), page


def test_every_printed_plan_and_simulation_has_its_manifest() -> None:
    """``-f`` is required."""
    for page in PAGES:
        for line in re.findall(r"kvtide (?:plan|simulate) [^`\n]*", page.read_text("utf-8")):
            assert "-f " in line or "--instances" in line, f"{page.name}: {line}"


def test_the_page_lists_the_exit_codes() -> None:
    codes = {value for name, value in vars(command_line).items() if name.isupper() and isinstance(value, int)}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == codes | {0}
