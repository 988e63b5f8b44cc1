"""The checks that the unit tests' fake API server passes, asked of a real one."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.client import new_api
from kvtide_operator.act.kubernetes.api import KubernetesApi

CONTRACT = Path(__file__).parents[1] / "tests/process/test_api_contract.py"
_spec = importlib.util.spec_from_file_location("api_contract", CONTRACT)
assert _spec is not None
assert _spec.loader is not None
_contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_contract)
globals().update({name: check for name, check in vars(_contract).items() if name.startswith("test_")})


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    made = new_api()
    yield made
    made.close()
