"""The distribution's packages that a real node needs."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

import click

from e2e.cache import MissingError

# The program that shows that a package is there, and the package.
OPENSSL: Final = {"openssl": "openssl"}
NODE: Final = {
    **OPENSSL,
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "mkfs.xfs": "xfsprogs",
    "ip": "iproute2",
    "iptables": "iptables",
}
IMAGES: Final = {"buildah": "buildah", "debootstrap": "debootstrap"}
PROMETHEUS: Final = {"prometheus": "prometheus"}


def need(packages: Mapping[str, str]) -> None:
    """Install what is missing with apt.

    Raises:
        MissingError: something is missing and cannot be installed.
    """
    missing = sorted({package for program, package in packages.items() if shutil.which(program) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise MissingError(
            f"{', '.join(missing)} must be installed: this needs root and apt-get, or do it by hand"
        )
    click.echo(f"installing {', '.join(missing)}", err=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        made = subprocess.run(
            ["apt-get", *arguments], capture_output=True, text=True, env=environment, check=False
        )
        if made.returncode != 0:
            raise MissingError(f"apt-get {' '.join(arguments)} failed: {made.stderr.strip()[-500:]}")
