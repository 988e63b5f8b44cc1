"""What no load could be planned for is said before any comes: a real operator and API server, no nodes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from e2e import images
from e2e.kubectl import apply, get, kubectl, until
from e2e.operator_process import operator

pytestmark = pytest.mark.timeout(240)

SAID_S = 90.0
"""The first round of all compiles nothing, but imports what compiles."""
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": {"name": "mine/own"}}, "model 'mine/own' is not known; give layers"),
    "dtype": ({"model": {"name": "meta-llama/Llama-3.1-8B", "dtype": "int3"}}, "dtype 'int3' is not known"),
    "system": ({"engine": {"gpuHour": "2", "profile": {"source": "Catalogue", "system": "h1000"}}}, "h1000"),
    "table": ({"engine": {"gpuHour": "2", "profile": {"source": "Table", "file": "no.json"}}}, "no.json: No"),
    "history": ({"history": {"url": "nonsense://x"}}, "history.url nonsense://x is none that this"),
    "folder": ({"history": {"url": "file:///tmp/x"}}, "history.url file:///tmp/x is none that this"),
    "keys": ({"history": {"url": "s3://b/x", "secretRef": {"name": "no-such"}}}, '"no-such" not found'),
    "token": (
        {"metrics": {"prometheus": {"url": "http://127.0.0.1:1", "authSecretRef": {"name": "no-such"}}}},
        '"no-such" not found',
    ),
}  # fmt: skip


@pytest.fixture
async def euros(definitions: None) -> AsyncIterator[tuple[str, str]]:
    """A DRAM class in dollars, and one in euros beside it."""
    classes = []
    for currency in ("USD", "EUR"):
        name = f"e2e-{currency.lower()}-{uuid4().hex[:8]}"
        price = {"currency": currency, "capacity": [{"perGiBHour": "0.004"}]}
        await apply(
            {
                "apiVersion": "kvtide.dev/v1alpha1", "kind": "TierClass", "metadata": {"name": name},
                "spec": {"medium": "DRAM", "price": price},
            }
        )  # fmt: skip
        classes.append(name)
    yield classes[0], classes[1]
    await kubectl("delete", "tierclass", *classes)


async def test_what_cannot_be_planned_is_said_before_any_load(
    namespace: str, euros: tuple[str, str], tmp_path: Path
) -> None:
    sample = yaml.safe_load((images.REPOSITORY / "samples/vllm-small.yaml").read_text())
    sample["spec"]["tiers"][0]["classes"] = [euros[0]]
    wrong = WRONG | {
        "currencies": (
            {"tiers": [{**sample["spec"]["tiers"][0], "classes": list(euros)}]},
            "the prices are in EUR, USD; give all of them in one currency",
        )
    }
    for name, (spec, _) in wrong.items():
        metadata = {"name": name, "namespace": namespace}
        await apply({**sample, "metadata": metadata, "spec": sample["spec"] | spec})
    said: dict[str, dict[str, str]] = {}

    async def all_said() -> bool:
        for name in wrong:
            status = (await get("tieredcache", name, namespace)).get("status", {})
            found = {one["type"]: one for one in status.get("conditions", ())}
            said[name] = found.get("PlanCurrent", {})
        return all(one.get("status") == "False" for one in said.values())

    async with operator(tmp_path, namespace, identity="only"):
        await until("all to be said", all_said, SAID_S)
    for name, (_, sentence) in wrong.items():
        assert sentence in said[name]["message"], (name, said[name])
        assert "has seen no requests" not in said[name]["message"]
