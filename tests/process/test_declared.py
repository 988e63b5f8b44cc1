"""What a cluster makes of a declared cache: which classes can be told apart, which files may be named."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from kvtide_operator.api.manifest import Manifest, ManifestError
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.planner.scenario import engine_profile
from kvtide_operator.reconcile import declared
from kvtide_operator.reconcile.declared import forbidden_file, manifest_of
from kvtide_operator.simulate.engine import profiles
from kvtide_operator.simulate.engine.profile import ProfileError
from kvtide_operator.world.kinds import CacheKey

if TYPE_CHECKING:
    from kvtide_operator.api.tierclass import TierClass

SAMPLES = Path(__file__).parents[2] / "samples"
KEY = CacheKey("prod", "vllm-large")


def classes() -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((SAMPLES / "tierclasses.yaml").read_text()) if one]


def declare(profile: dict[str, Any] | None = None, without: str | None = None) -> Manifest:
    """The large sample with another profile; one of its classes names no StorageClass."""
    document = yaml.safe_load((SAMPLES / "vllm-large.yaml").read_text())
    if profile is not None:
        document["spec"]["engine"]["profile"] = profile
    known = classes()
    for each in known:
        if each["metadata"]["name"] == without:
            del each["spec"]["storageClassName"]
    manifest, missing = manifest_of(KEY, TieredCache.model_validate(document), known, {})
    assert missing is None
    return manifest


def ssd_classes(manifest: Manifest) -> tuple[str, ...]:
    assert manifest.cache.spec.ssd is not None
    return manifest.cache.spec.ssd.classes


def test_all_classes_are_chosen_from_where_each_names_its_storage_class() -> None:
    assert ssd_classes(declare()) == ("essd-pl1", "essd-pl2")
    assert ssd_classes(declare(without="essd-pl2")) == ("essd-pl1",)
    assert ssd_classes(declare(without="essd-pl1")) == ("essd-pl1",)


def test_a_class_that_is_not_there_is_named() -> None:
    document = yaml.safe_load((SAMPLES / "vllm-large.yaml").read_text())
    known = [one for one in classes() if one["metadata"]["name"] != "essd-pl2"]
    with pytest.raises(
        ManifestError, match=r"'essd-pl2', which is not there.*there are: dram-standard, essd-"
    ):
        manifest_of(KEY, TieredCache.model_validate(document), known, {})


def test_a_class_that_is_gone_is_as_it_was_until_it_is_back() -> None:
    cache = TieredCache.model_validate(yaml.safe_load((SAMPLES / "vllm-large.yaml").read_text()))
    known: dict[str, TierClass] = {}
    before, _ = manifest_of(KEY, cache, classes(), known)
    now, missing = manifest_of(KEY, cache, [], known)
    assert now == before
    assert missing is not None
    assert "TierClass dram-standard, essd-pl1, essd-pl2 is gone: sizes are kept" in missing
    back, missing = manifest_of(KEY, cache, classes(), known)
    assert (back, missing) == (before, None)


def test_step_times_of_a_file_are_those_that_the_operators_pod_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declared, "PROFILES", tmp_path)
    manifest = declare({"source": "Table", "file": "mine.json"})
    with pytest.raises(ProfileError, match=r"mine\.json: No such file"):
        engine_profile(manifest)
    shipped = Path(profiles.__file__).with_name("llama-3.1-8b_h100_sxm_vllm.json").read_text()
    (tmp_path / "mine.json").write_text(shipped)
    assert engine_profile(manifest).tables is not None
    measured = declare({"source": "Measured", "base": {"source": "Table", "file": "mine.json"}})
    assert engine_profile(measured).tables is not None


@pytest.mark.parametrize(
    "file", ["/var/run/secrets/token", "../token", "a/b.json", "a/", "..", ".hidden", "x" * 254, "a b"]
)
def test_no_other_file_of_the_operator_can_be_named(file: str) -> None:
    table = {"source": "Table", "file": file}
    for profile in (table, {"source": "Measured", "base": table}):
        said = forbidden_file(declare(profile).cache)
        assert said is not None
        assert "give the name of a file in the ConfigMap" in said
    assert forbidden_file(declare({"source": "Table", "file": "mine.json"}).cache) is None
    assert forbidden_file(declare().cache) is None
