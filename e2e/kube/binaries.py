"""The binaries of the cluster, built from Go modules and kept."""

import hashlib
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from e2e.cache import MissingError
from e2e.kube.places import BIN, HOME

SOURCES: Final = Path(__file__).parent / "go"
VERSIONED: Final = "k8s.io/component-base/version"
NO_DRIVERS: Final = "no_btrfs no_zfs no_devmapper"


@dataclass(frozen=True, slots=True)
class Binary:
    """A binary: the folder with its go.mod, its package, and what its node is needed for."""

    name: str
    module: str
    package: str
    tags: str = ""


def _kubernetes(name: str) -> Binary:
    return Binary(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}")


def _containerd(name: str) -> Binary:
    return Binary(name, "containerd", f"github.com/containerd/containerd/v2/cmd/{name}", NO_DRIVERS)


CONTROL_PLANE: Final = (
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kubectl"),
    Binary("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
)
NODE: Final = (
    _kubernetes("kubelet"),
    _kubernetes("kube-proxy"),
    _containerd("containerd"),
    _containerd("containerd-shim-runc-v2"),
    _containerd("ctr"),
    Binary("csi-resizer", "resizer", "github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer"),
    Binary("csi-driver", "kubernetes", "./csi"),
    Binary("pause", "kubernetes", "./pause"),
)


def build(*binaries: Binary) -> None:
    """Build what is missing or older than its sources.

    Raises:
        MissingError: Go is missing or a build fails.
    """
    wanted = [binary for binary in binaries if _built(binary) != _sources(binary.module)]
    if not wanted:
        return
    if shutil.which("go") is None:
        raise MissingError("the test cluster is built with Go, which is missing: install Go 1.25 or newer")
    names = ", ".join(binary.name for binary in wanted)
    click.echo(
        f"building {names} from Go modules.\n"
        "The first time this takes 10 to 15 minutes on two cores, and 3 GB of disk; what is built is kept.",
        err=True,
    )
    BIN.mkdir(parents=True, exist_ok=True)
    for binary in wanted:
        since_s = time.monotonic()
        _build(binary)
        click.echo(f"  {binary.name}: {time.monotonic() - since_s:.0f} s", err=True)


def _build(binary: Binary) -> None:
    folder = HOME / "sources" / binary.module
    shutil.copytree(SOURCES / binary.module, folder, dirs_exist_ok=True)
    linked = "-s -w"
    if binary.package.startswith("k8s.io/kubernetes"):
        version = _kubernetes_version()
        major, minor, _ = version.removeprefix("v").split(".")
        for key, value in (("gitVersion", version), ("gitMajor", major), ("gitMinor", minor)):
            linked += f" -X {VERSIONED}.{key}={value}"
    made = subprocess.run(
        [
            "go",
            "build",
            "-trimpath",
            "-tags",
            binary.tags,
            "-ldflags",
            linked,
            "-o",
            BIN / binary.name,
            binary.package,
        ],
        cwd=folder,
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"},
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise MissingError(f"{binary.name} does not build: {made.stderr.strip()[-2000:]}")
    _stamp(binary).write_text(_sources(binary.module))


def _kubernetes_version() -> str:
    found = re.search(r"k8s\.io/kubernetes (v\S+)", (SOURCES / "kubernetes" / "go.mod").read_text())
    assert found, "kubernetes/go.mod requires k8s.io/kubernetes"
    return found[1]


def _sources(module: str) -> str:
    digest = hashlib.sha256()
    for path in sorted((SOURCES / module).rglob("*.*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _built(binary: Binary) -> str | None:
    stamp = _stamp(binary)
    return stamp.read_text() if stamp.exists() and (BIN / binary.name).exists() else None


def _stamp(binary: Binary) -> Path:
    return BIN / f".{binary.name}.sources"
