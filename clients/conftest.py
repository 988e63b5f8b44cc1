"""Builds the programs, once, below the cache folder; what their locks name is all they need."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("KVTIDE_CACHE") or Path.home() / ".cache" / "kvtide") / "clients"
PATIENCE_S = 600
"""Downloads and compilers, the first time."""


@dataclass(frozen=True)
class Client:
    """A client library of another language."""

    tools: tuple[str, ...]
    build: Callable[[Path], list[str]]
    protocols: tuple[int, ...] = (2, 3)
    tls: bool = False


def _run(*command: str, folder: Path, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


def _node(program: str) -> Callable[[Path], list[str]]:
    def build(folder: Path) -> list[str]:
        shutil.copytree(HERE / "node", folder, dirs_exist_ok=True)
        lock, built = (folder / "package-lock.json").read_text(), folder / "node_modules" / ".built"
        if not built.exists() or built.read_text() != lock:
            _run("npm", "ci", "--silent", "--no-audit", "--no-fund", folder=folder)
            built.write_text(lock)
        return ["node", str(folder / program)]

    return build


def _go(folder: Path) -> list[str]:
    _run("go", "build", "-mod=readonly", "-o", str(folder / "checks"), ".", folder=HERE / "go")
    return [str(folder / "checks")]


def _java(folder: Path) -> list[str]:
    pom, classpath, built = HERE / "java" / "pom.xml", folder / "classpath", folder / "pom.xml"
    if not built.exists() or built.read_text() != pom.read_text():
        command = ["dependency:build-classpath", f"-Dmdep.outputFile={classpath}"]
        _run("mvn", "-q", "-B", "-f", str(pom), *command, folder=folder)
        shutil.copy(pom, built)
    libraries = classpath.read_text()
    _run("javac", "-cp", libraries, "-d", str(folder), str(HERE / "java" / "Checks.java"), folder=folder)
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{folder}:{libraries}", "Checks"]


def _rust(folder: Path) -> list[str]:
    _run("cargo", "build", "--quiet", "--locked", folder=HERE / "rust", CARGO_TARGET_DIR=str(folder))
    return [str(folder / "debug" / "kvtide-rust-client")]


CLIENTS = {
    "ioredis": Client(("node", "npm"), _node("ioredis.mjs"), protocols=(2,), tls=True),
    "node-redis": Client(("node", "npm"), _node("node-redis.mjs"), tls=True),
    "go-redis": Client(("go",), _go, tls=True),
    "jedis": Client(("java", "javac", "mvn"), _java),
    "redis-rs": Client(("cargo",), _rust),
}


@pytest.fixture(scope="session")
def program_of() -> Callable[[str], list[str]]:
    """The command of a client's program; without the tools it needs a test is skipped, in CI it fails."""
    built: dict[str, list[str]] = {}

    def of(name: str) -> list[str]:
        client = CLIENTS[name]
        if missing := [tool for tool in client.tools if shutil.which(tool) is None]:
            say = pytest.fail if "CI" in os.environ else pytest.skip
            say(f"{name} needs {', '.join(missing)} on the PATH")
        if name not in built:
            folder = CACHE / name
            folder.mkdir(parents=True, exist_ok=True)
            with (CACHE / f"{name}.lock").open("w") as lock:  # another worker may build it, too
                fcntl.flock(lock, fcntl.LOCK_EX)
                built[name] = client.build(folder)
        return built[name]

    return of
