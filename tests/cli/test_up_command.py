"""`kvtide up` and `kvtide demo` as a user runs them: processes, exit codes, nothing left behind."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kvtide_operator.workload.generate import generate
from kvtide_operator.workload.writer import write_mooncake

ROOT = Path(__file__).parents[2]
KVTIDE = Path(sys.executable).with_name("kvtide")


def run(*arguments: str | Path, timeout_s: float = 50) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [KVTIDE, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
    )


def cache_yaml(tmp_path: Path, **scaling: str) -> Path:
    documents = list(yaml.safe_load_all((ROOT / "examples/local.yaml").read_text()))
    documents[0]["spec"]["tiers"][0]["capacity"] = {"initial": "64Mi", "min": "16Mi", "max": "256Mi"}
    documents[0]["spec"]["objective"] = {"prefer": "Latency"}
    documents[0]["spec"]["scaling"].update(scaling)
    path = tmp_path / "cache.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def test_one_round_planned_from_a_file_grows_live_nodes(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    with trace.open("wb") as file:
        write_mooncake(generate(profile="chat", requests=2000, rate_per_s=4.0, seed=1), file)
    done = run("up", "-f", cache_yaml(tmp_path, minimumGain="1%"), "--trace", trace, "--once", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert said["round"] == 1
    assert said["capacity_bytes"] == 64 << 20
    assert said["decision"]["action"] == "Grow"
    assert said["decision"]["to"]["dram_bytes"] == 80 << 20
    assert sum(one["capacity_bytes"] for one in said["resized"]) == 80 << 20
    assert "nodes serve at redis://127.0.0.1:" in done.stderr


def test_every_round_is_one_line_until_it_is_told_to_stop(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [KVTIDE, "up", "-f", cache_yaml(tmp_path, interval="1s"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    rounds = [json.loads(process.stdout.readline()) for _ in range(3)]
    started = children_of(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert [one["round"] for one in rounds] == [1, 2, 3]
    assert rounds[0]["decision"]["reason"] == "has seen no requests within the window that it could plan for"
    assert sum(b"kvtide_cachenode" in command for command in started.values()) == 2
    for pid in started:
        wait_for_end(pid)
    assert "Traceback" not in errors


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_demo_leaves_no_process_behind_however_it_ends(tmp_path: Path, how: signal.Signals) -> None:
    process = subprocess.Popen(
        [KVTIDE, "demo", "--report", tmp_path / "demo.html"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith(b"round 2"):
        assert process.poll() is None
    started = children_of(process.pid)
    assert sum(b"kvtide_cachenode" in command for command in started.values()) == 2
    process.send_signal(how)
    _, errors = process.communicate(timeout=120)
    for pid in started:
        wait_for_end(pid)
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["up", "-f", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["up", "-f", "README.md"], "README.md:3:2: not valid YAML"),
        (["demo", "--trace", "nowhere.jsonl"], "nowhere.jsonl: No such file or directory"),
        (["up", "-f", "examples/local.yaml", "--trace", "README.md"], "README.md"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [KVTIDE, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_node_larger_than_the_machine_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = cache_yaml(tmp_path)
    path.write_text(path.read_text().replace("64Mi", "900Ti").replace("256Mi", "1Pi"))
    done = run("up", "-f", path, "--once")
    assert done.returncode == 2
    assert "node-0 did not start" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_imports_nothing_heavy() -> None:
    heavy = {"numpy", "numba", "matplotlib", "pydantic", "aiohttp", "rich"}
    code = (
        "import sys; from kvtide_operator.cli import main; main(['--help'], standalone_mode=False);"
        f"print(sys.modules.keys() & {heavy})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.rstrip().endswith("set()")


def children_of(pid: int) -> dict[int, bytes]:
    """The children of a process and their command lines."""
    found: dict[int, bytes] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes()
    return found


def wait_for_end(pid: int) -> None:
    """Return when a process that is not our child has ended."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(watched, closefd=True):
        assert select.select([watched], [], [], 20)[0], f"{pid} still runs"
