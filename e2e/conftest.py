"""The cluster of the end-to-end tests: the one that KUBECONFIG names, else one of our own."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from e2e import images
from e2e.kube import cluster as own
from e2e.kube.places import BIN, CTR, KUBECONFIG
from e2e.kubectl import new_namespace

COMPILE = """
import sys
from pathlib import Path
from kvtide_operator.api.manifest import load_manifest
from kvtide_operator.planner.planning import warm_up
warm_up(load_manifest(Path(sys.argv[1])))
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--yes", action="store_true", help="also what deletes all TieredCaches of a cluster that was kept"
    )


@pytest.fixture(scope="session")
def was_kept() -> bool:
    """Whether the cluster was there before the tests, and may have something that somebody wants to keep."""
    return os.environ.get("KUBECONFIG", str(KUBECONFIG)) != str(KUBECONFIG) or own.is_up(with_node=True)


@pytest.fixture(scope="session", autouse=True)
def cluster(was_kept: bool) -> Iterator[None]:
    """A cluster with a node; KUBECONFIG names it and kubectl is on the PATH while the tests run.

    One of our own that was not up before is taken down again.
    """
    given, path = os.environ.get("KUBECONFIG"), os.environ["PATH"]
    if given is None:
        os.environ["KUBECONFIG"] = str(own.up(with_node=True))
    if shutil.which("kubectl") is None:
        os.environ["PATH"] = f"{path}:{BIN}"
    try:
        yield
    finally:
        os.environ["PATH"] = path
        if given is None:
            del os.environ["KUBECONFIG"]
            if not was_kept:
                own.down()


@pytest.fixture(scope="session")
def node_image(cluster: None) -> str:
    """The image of the cache node, built from this tree and in the cluster."""
    return _image("KVTIDE_E2E_CACHENODE_IMAGE", images.CACHENODE)


@pytest.fixture(scope="session")
def operator_image(cluster: None) -> str:
    """The image of the operator, built from this tree and in the cluster."""
    return _image("KVTIDE_E2E_OPERATOR_IMAGE", images.OPERATOR)


@pytest.fixture(scope="session")
def definitions(cluster: None) -> None:
    """The kinds of `kvtide.dev`, as `crds/` has them."""
    folder = images.REPOSITORY / "crds"
    for command in (
        ["apply", "--server-side", "--force-conflicts", f"--filename={folder}"],
        ["wait", "--for=condition=Established", f"--filename={folder}", "--timeout=60s"],
    ):
        subprocess.run(["kubectl", *command], check=True, capture_output=True)


@pytest.fixture(scope="session")
def compiled() -> None:
    """What planning needs is compiled, and kept beside the sources: where operators start here they find it.

    In a fresh checkout that takes a minute, which is no part of what the tests measure.
    """
    subprocess.run(
        [sys.executable, "-c", COMPILE, str(images.REPOSITORY / "examples/kareto.yaml")], check=True
    )


@pytest.fixture
async def namespace(cluster: None) -> AsyncIterator[str]:
    """A namespace for one test."""
    async with new_namespace("e2e") as name:
        yield name


def _image(variable: str, image: str) -> str:
    """The image that a variable names, or ours, given to the node by its containerd.

    KVTIDE_E2E_CTR is the command line that reaches the containerd of a cluster that is not ours.
    """
    if named := os.environ.get(variable):
        return named
    if os.environ["KUBECONFIG"] == str(KUBECONFIG):
        images.load(image, CTR)
    elif reached := os.environ.get("KVTIDE_E2E_CTR"):
        images.load(image, shlex.split(reached))
    else:
        pytest.fail(f"set {variable} to an image that the cluster of KUBECONFIG can pull")
    return image
