"""The checks that the unit tests' fake API server passes, asked of a real one."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e import images
from e2e.client import new_api
from kvtide_operator.act.kubernetes.api import KubernetesApi

CONTRACTS = ("test_api_contract", "test_ownership")


def _checks(name: str) -> dict[str, object]:
    path = Path(__file__).parents[1] / "tests/process" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {check: value for check, value in vars(module).items() if check.startswith("test_")}


for _name in CONTRACTS:
    globals().update(_checks(_name))


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    made = new_api()
    yield made
    made.close()


@pytest.fixture
async def owner_uid(api: KubernetesApi, namespace: str, definitions: None) -> str:
    """The uid of a TieredCache ``chat`` in the namespace, which no operator looks after."""
    cache = yaml.safe_load((images.REPOSITORY / "samples/vllm-small.yaml").read_text())
    made = await api.create({**cache, "metadata": {"name": "chat", "namespace": namespace}})
    return str(made["metadata"]["uid"])
