"""Bringing the cluster up and down."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import click

from e2e import images
from e2e.cache import MissingError
from e2e.kube import binaries, cgroups, containerd, control_plane, daemons, network, node
from e2e.kube.places import BIN, CTR, HOME, KUBECONFIG, STATE, VOLUMES
from e2e.packages import NODE, OPENSSL, need


def up(*, with_node: bool) -> Path:
    """Build what is missing, start what does not run; returns the administrator's kubeconfig.

    Raises:
        MissingError: something is missing or does not start.
    """
    if with_node and os.geteuid() != 0:
        raise MissingError("a node needs root; a control plane alone does not: use --control-plane")
    need(NODE if with_node else OPENSSL)
    binaries.build(*binaries.CONTROL_PLANE, *(binaries.NODE if with_node else ()))
    since_s = time.monotonic()
    if is_up(with_node=with_node) or _started_again(with_node=with_node):
        return KUBECONFIG
    if STATE.exists():
        down()
    if with_node:
        network.make()
        control_plane.start(control_plane.Addresses.of_node())
        node.start()
    else:
        control_plane.start(control_plane.Addresses.on_loopback())
    click.echo(f"the cluster is up after {time.monotonic() - since_s:.0f} s: {KUBECONFIG}", err=True)
    return KUBECONFIG


def load(*names: str) -> None:
    """Build images of this repository, and give them to the node."""
    for name in names:
        since_s = time.monotonic()
        images.load(name, CTR)
        click.echo(f"{name} is in the cluster after {time.monotonic() - since_s:.0f} s", err=True)


def down() -> None:
    """End everything, without ceremony, and forget it, but not the binaries and images."""
    for name in (*reversed(control_plane.NAMES), *node.NAMES):
        daemons.stop(name, signal.SIGKILL)
    cgroups.remove()
    _end_shims()
    _unmount()
    network.remove()
    _forget_elsewhere()
    shutil.rmtree(STATE, ignore_errors=True)
    click.echo("the cluster is down", err=True)


def status() -> None:
    """Print what runs and how much memory it takes."""
    for name in (*control_plane.NAMES, *node.NAMES):
        process = daemons.pid(name)
        if process is None:
            click.echo(f"{name:<24} does not run")
        else:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
            mebibytes = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            click.echo(f"{name:<24} pid {process:<8} {mebibytes:5.0f} MiB")
    if KUBECONFIG.exists():
        click.echo(f"export KUBECONFIG={KUBECONFIG} PATH=$PATH:{BIN}")


def is_up(*, with_node: bool) -> bool:
    """Whether a cluster of this kind serves, with all that belongs to it: without a scheduler no pod runs."""
    if not _is_of_kind(with_node=with_node) or _ended(with_node=with_node):
        return False
    return control_plane.is_ready() and (node.is_ready() if with_node else True)


def _is_of_kind(*, with_node: bool) -> bool:
    return KUBECONFIG.exists() and network.is_there() == with_node


def _ended(*, with_node: bool) -> list[str]:
    """Programs of the cluster that do not run."""
    names = (*control_plane.NAMES, *(node.NAMES if with_node else ()))
    return [name for name in names if daemons.pid(name) is None]


def _started_again(*, with_node: bool) -> bool:
    """Start what has ended in a cluster that otherwise goes on; whether it serves then."""
    ended = _ended(with_node=with_node)
    if not _is_of_kind(with_node=with_node) or not ended or not control_plane.is_ready():
        return False
    click.echo(f"{', '.join(ended)} had ended and is started again", err=True)
    try:
        for name in ended:
            daemons.start_again(name)
        serves = partial(is_up, with_node=with_node)
        daemons.wait_for("the cluster to serve again", serves, control_plane.READY_S)
    except (MissingError, OSError) as error:
        click.echo(f"in vain: {error}; the cluster is made anew", err=True)
        return False
    return True


def _end_shims() -> None:
    """A shim outlives its container and containerd; nobody else runs one from our folder."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and (folder / "exe").readlink() == BIN / "containerd-shim-runc-v2":
                os.kill(int(folder.name), signal.SIGKILL)


def _forget_elsewhere() -> None:
    """What the kubelet and the network plug-ins write into folders that cannot be chosen."""
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{STATE}/"):
            link.unlink()
    results = Path("/var/lib/cni/results")
    for result in results.glob(f"{containerd.NETWORK}-*-eth0"):
        sandbox = result.name.removeprefix(f"{containerd.NETWORK}-").removesuffix("-eth0")
        (results / f"cni-loopback-{sandbox}-lo").unlink(missing_ok=True)
        result.unlink()


def _unmount() -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for path in sorted((path for path in mounted if path.startswith(f"{HOME}/")), reverse=True):
        subprocess.run(["umount", "--lazy", path], check=False)
    for volume in VOLUMES.glob("*.img"):
        listed = subprocess.run(
            ["losetup", "--noheadings", "--output", "NAME", "--associated", volume],
            capture_output=True,
            text=True,
            check=False,
        )
        for device in listed.stdout.split():
            subprocess.run(["losetup", "--detach", device], check=False)
