"""The images: small, without rights, and the programs in them start with a read-only root."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from e2e.kubectl import apply, get, kubectl, until

ROOT: Final = Path(__file__).parents[1]
PYTHON: Final = "/opt/kvtide/bin/python"
# What only the operator needs; a node that has it starts later and is larger.
NOT_IN_A_NODE: Final = (
    "numba",
    "torch",
    "pydantic",
    "scipy",
    "numpy",
    "kopf",
    "kubernetes",
    "kvtide_operator",
)

pytestmark = pytest.mark.timeout(300)


async def output_of(namespace: str, image: str, *command: str) -> str:
    """Run a command in a pod that Pod Security *restricted* admits, root read-only, until it ends."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "resources": {"limits": {"memory": "1Gi"}},
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "command", "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            # No runAsUser: that it is not root must be the image's own doing.
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }
    await apply(pod)

    async def ended() -> str | None:
        phase: str = (await get("pod", "command", namespace))["status"]["phase"]
        return phase if phase in {"Succeeded", "Failed"} else None

    phase = await until(f"{command[0]} to end", ended, 120.0)
    said = await kubectl("-n", namespace, "logs", "command")
    assert phase == "Succeeded", said
    return said


async def test_node_image_has_only_what_a_node_needs(namespace: str, node_image: str) -> None:
    script = f"""
import importlib.util, json, os
from importlib.metadata import version
import kvtide_cachenode.cli
found = [name for name in {NOT_IN_A_NODE} if importlib.util.find_spec(name)]
print(json.dumps({{"found": found, "user": os.getuid(), "version": version("kvtide")}}))
"""
    said = json.loads(await output_of(namespace, node_image, PYTHON, "-c", script))
    assert (said["found"], said["user"]) == ([], 10001)


async def test_operator_image_plans(namespace: str, operator_image: str) -> None:
    requests = [
        {"timestamp": 1000 * n, "input_length": 1024, "output_length": 8, "hash_ids": [n % 7, 7 + n % 11]}
        for n in range(200)
    ]
    lines = "\n".join(map(json.dumps, requests))
    script = f"cat > /tmp/trace.jsonl << END\n{lines}\nEND\nkvtide curve /tmp/trace.jsonl --json && id -u"
    curve, user = (await output_of(namespace, operator_image, "sh", "-c", script)).split("\n", 1)
    assert json.loads(curve)["blocks"] == 400
    assert user.strip() == "10001"


async def test_operator_image_has_its_command(namespace: str, operator_image: str) -> None:
    assert "TieredCaches" in await output_of(namespace, operator_image, "kvtide-operator", "--help")


@pytest.mark.parametrize(
    "lock", ["cachenode/requirements.lock", "operator/requirements.lock", "operator/build.lock"]
)
def test_images_have_the_versions_the_tests_ran_with(lock: str) -> None:
    def pinned(path: Path) -> set[str]:
        return {line.split(" ")[0] for line in path.read_text().splitlines() if "==" in line}

    assert pinned(ROOT / lock) <= pinned(ROOT / "requirements.lock")
