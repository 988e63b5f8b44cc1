"""Wrong manifests are refused in a sentence. `e2e/test_api.py` asks an API server about the same ones."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from kvtide_operator.api.manifest import ManifestError, load_manifest

ROOT = Path(__file__).parents[2]
CASES = yaml.safe_load((Path(__file__).parent / "refused.yaml").read_text())
CACHE = yaml.safe_load((ROOT / "samples/vllm-large.yaml").read_text())
CLASSES = list(yaml.safe_load_all((ROOT / "samples/tierclasses.yaml").read_text()))


def changed(manifest: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    manifest = copy.deepcopy(manifest)
    for path, value in case.get("set", {}).items():
        *parents, last = path.split(".")
        here: Any = manifest
        for part in parents:
            here = here[int(part)] if isinstance(here, list) else here[part]
        here[int(last) if isinstance(here, list) else last] = value
    for path in case.get("remove", ()):
        *parents, last = path.split(".")
        here = manifest
        for part in parents:
            here = here[int(part)] if isinstance(here, list) else here[part]
        del here[last]
    return manifest


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_what_an_api_server_refuses_a_file_is_refused_for(case: dict[str, Any], tmp_path: Path) -> None:
    cache = changed(CACHE, case) if case["of"] == "cache" else CACHE
    named = {"class": "essd-pl1", "dram": "dram-standard"}.get(case["of"])
    classes = [changed(each, case) if each["metadata"]["name"] == named else each for each in CLASSES]
    path = tmp_path / "cache.yaml"
    path.write_text(yaml.safe_dump_all([cache, *classes]))
    if case["locally"] is None:
        load_manifest(path)
        return
    with pytest.raises(ManifestError, match=case["locally"]) as caught:
        load_manifest(path)
    assert "\n" not in str(caught.value)


def test_the_manifests_that_are_changed_are_right(tmp_path: Path) -> None:
    path = tmp_path / "cache.yaml"
    path.write_text(yaml.safe_dump_all([CACHE, *CLASSES]))
    assert load_manifest(path).cache.spec.ssd is not None
