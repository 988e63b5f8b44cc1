"""The project's images, built from its Dockerfiles without a registry of images.

The base is a Debian with Python that debootstrap makes once; buildah builds on it in a chroot and keeps the
layers of one build for the next. A node is given only the blobs that it has not got, so that after a change
of the code a megabyte is moved.
"""

import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from e2e.cache import CACHE, MissingError
from e2e.packages import IMAGES, need

REPOSITORY: Final = Path(__file__).parent.parent
FOLDERS: Final = {"localhost/kvtide/cachenode:e2e": "cachenode", "localhost/kvtide/operator:e2e": "operator"}
CACHENODE, OPERATOR = FOLDERS
COPY_BYTES: Final = 1 << 20
OCI: Final = "application/vnd.oci.image"
BASE: Final = "localhost/kvtide/base"
BASE_PACKAGES: Final = "python3,python3-pip,ca-certificates"
# What apt keeps for itself and what people read: half of the base.
BASE_WASTE: Final = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
)
# Where this machine says how packages are reached, if it does; a build may look at them.
PACKAGE_SETTINGS: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")

_HOME = CACHE / "images"


def load(image: str, ctr: Sequence[str]) -> None:
    """Build an image and give it to a containerd; ``ctr`` is the command line that reaches it.

    Raises:
        MissingError: it cannot be built, or containerd refuses it.
    """
    with _alone():
        _load(image, ctr)


@contextmanager
def _alone() -> Iterator[None]:
    """Nobody else on this machine builds or loads meanwhile."""
    _HOME.mkdir(parents=True, exist_ok=True)
    with (_HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _load(image: str, ctr: Sequence[str]) -> None:
    blobs = _build(image)
    known = set(_run([*ctr, "content", "ls", "-q"]).split())
    archive = _HOME / f"{FOLDERS[image]}.new.tar"
    _write_archive(blobs, image, archive, known)
    _run([*ctr, "images", "import", str(archive)])
    archive.unlink()


def _build(image: str) -> Path:
    """Build an image if anything of it has changed; returns a folder of blobs, with `manifest` among them."""
    need(IMAGES)
    _make_base()
    volumes = [f"--volume={path}:{path}:ro" for path in PACKAGE_SETTINGS if Path(path).exists()]
    file = REPOSITORY / FOLDERS[image] / "Dockerfile"
    said = _buildah(
        "build", "--isolation=chroot", "--layers", "--quiet", f"--build-arg=BASE={BASE}", *volumes,
        f"--file={file}", f"--tag={image}", str(REPOSITORY),
    )  # fmt: skip
    number = said.splitlines()[-1]
    blobs = _HOME / FOLDERS[image]
    if not (blobs / f"sha256:{number}").exists():
        archive = _HOME / f"{FOLDERS[image]}.tar"
        archive.unlink(missing_ok=True)
        _buildah("push", image, f"docker-archive:{archive}:{image}")
        _extract(archive, blobs)
        archive.unlink()
    return blobs


def _make_base() -> None:
    archive = _HOME / "base.tar"
    if not archive.exists():
        click.echo("making the base image: Debian with Python, about a minute", err=True)
        root = _HOME / "base"
        shutil.rmtree(root, ignore_errors=True)
        _run(["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", "bookworm", str(root)])
        for folder in BASE_WASTE:
            shutil.rmtree(root / folder)
        (root / "var/cache/apt/archives/partial").mkdir(parents=True)
        _run(["tar", "-C", str(root), "--numeric-owner", "-cf", f"{archive}.new", "."])
        Path(f"{archive}.new").rename(archive)
        shutil.rmtree(root)
    if not _buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        context = _HOME / "base-context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(
            "FROM scratch\nADD base.tar /\nENV PATH=/usr/local/bin:/usr/bin:/bin\n"
        )
        (context / "base.tar").unlink(missing_ok=True)
        (context / "base.tar").hardlink_to(archive)
        _buildah("build", "--isolation=chroot", f"--tag={BASE}", str(context))


def _extract(archive: Path, blobs: Path) -> None:
    """Make blobs of what `docker save` would have written: configuration, layers, and a manifest of them.

    The layers stay uncompressed: a file is copied faster than it is compressed, and only a new one is copied.
    """
    blobs.mkdir(exist_ok=True)
    with tarfile.open(archive) as tar:
        (listed,) = json.loads(_read(tar, "manifest.json"))
        configuration = _read(tar, listed["Config"])
        diffs = json.loads(configuration)["rootfs"]["diff_ids"]
        for digest, name in zip(diffs, listed["Layers"], strict=True):
            if not (blobs / digest).exists():
                layer = tar.extractfile(name)
                assert layer is not None, f"{name} is a file"
                with (blobs / f"{digest}.new").open("wb") as file:
                    shutil.copyfileobj(layer, file, COPY_BYTES)
                Path(file.name).rename(blobs / digest)
    digest = f"sha256:{hashlib.sha256(configuration).hexdigest()}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": _described(digest, len(configuration), "config.v1+json"),
        "layers": [_described(diff, (blobs / diff).stat().st_size, "layer.v1.tar") for diff in diffs],
    }
    (blobs / "manifest").write_text(json.dumps(manifest))
    (blobs / digest).write_bytes(configuration)
    for blob in blobs.iterdir():
        if blob.name not in {"manifest", digest, *diffs}:
            blob.unlink()


def _described(digest: str, size: int, kind: str) -> dict[str, Any]:
    return {"mediaType": f"{OCI}.{kind}", "digest": digest, "size": size}


def _write_archive(blobs: Path, image: str, archive: Path, known: set[str]) -> None:
    """An OCI archive of one image under the name that containerd shall give it, without ``known`` blobs."""
    manifest = (blobs / "manifest").read_bytes()
    needed = json.loads(manifest)
    number = hashlib.sha256(manifest).hexdigest()
    described = _described(f"sha256:{number}", len(manifest), "manifest.v1+json")
    described["annotations"] = {"io.containerd.image.name": image}
    with tarfile.open(archive, "w") as tar:
        _add(tar, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [described]}).encode())
        _add(tar, f"blobs/sha256/{number}", manifest)
        for digest in {each["digest"] for each in (needed["config"], *needed["layers"])} - known:
            tar.add(blobs / digest, f"blobs/{digest.replace(':', '/')}")


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None, f"{name} is a file"
    return file.read()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _buildah(*arguments: str) -> str:
    run_root = "/run/kvtide-e2e-" + hashlib.sha256(str(_HOME).encode()).hexdigest()[:8]
    store = [f"--root={_HOME / 'containers'}", f"--runroot={run_root}", "--storage-driver=overlay"]
    return _run(["buildah", *store, *arguments])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False
    )
    if done.returncode != 0:
        raise MissingError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()
