from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from kvtide_operator.api.manifest import ManifestError, load_manifest

DEMO = Path(__file__).parents[2] / "operator/src/kvtide_operator/cli/demo.yaml"


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = DEMO.read_text()
    assert old in text
    path = tmp_path / "cache.yaml"
    path.write_text(text.replace(old, new))
    return path


def test_the_demo_manifest_says_what_it_says() -> None:
    manifest = load_manifest(DEMO)
    spec = manifest.cache.spec
    assert spec.dram.capacity.max == 2**29
    assert spec.scaling.max_step == 0.25
    assert spec.scaling.down.stabilization == 180
    assert str(manifest.classes["dram-scaled"].spec.price.capacity[0].per_gi_b_hour) == "4.10"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("min: 64Mi", "min: 2Gi", r"capacity\.min 2Gi must be at most capacity\.max 512Mi"),
        ("min: 64Mi", "min: 512Mi", r"capacity\.initial 128Mi must lie between capacity\.min 512Mi"),
        ("min: 64Mi", "min: -1", "is below zero"),
        ("min: 64Mi", "min: 0", r"capacity\.min of a DRAM tier must be above 0"),
        ("medium: DRAM\n    classes", "medium: TAPE\n    classes", "does not match any of the expected tags"),
        ("classes: [dram-scaled]", "classes: [gold]", r"names class 'gold'.*there are: dram-scaled"),
        ("window: 10m", "window: ten", "'ten' is not a duration"),
        ("mode: Auto", "mode: auto", "Input should be 'Manual', 'Advise' or 'Auto'"),
        (
            "kind: TieredCache",
            "kind: Cache",
            "kind 'Cache' is not kvtide's; known are TieredCache, TierClass",
        ),
        ("nodes: {", "node: {", r"nodes: Field required"),
        ("    interval: 1m", "    interval: 1m\n    color: red", "color: Extra inputs are not permitted"),
        ("spec:\n  medium", "spec:\n medium", r"cache\.yaml:\d+:\d+: not valid YAML"),
        ('[{perGiBHour: "4.10"}]', "[]", "price.capacity"),
        (
            '[{perGiBHour: "4.10"}]',
            "[{upTo: 1Gi, perGiBHour: 1}]",
            "the last rung of price.capacity must have no upTo",
        ),
        (
            '[{perGiBHour: "4.10"}]',
            "[{perGiBHour: 1}, {perGiBHour: 2}]",
            "every rung of price.capacity but the last",
        ),
    ],
)
def test_a_wrong_manifest_is_refused_in_a_sentence(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(ManifestError, match=says) as caught:
        load_manifest(edited(tmp_path, old, new))
    assert "\n" not in str(caught.value)
    assert "cache.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.yaml: No such file"):
        load_manifest(tmp_path / "nowhere.yaml")


def test_two_caches_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "cache.yaml"
    path.write_text(DEMO.read_text() + "\n---\n" + DEMO.read_text())
    with pytest.raises(ManifestError, match="found 2 TieredCache documents; exactly one is needed"):
        load_manifest(path)


@pytest.mark.parametrize("value", ["Manual", "Advise", "Auto", "VLLM", "SGLANG", "DRAM", "Catalogue"])
def test_documented_values_survive_yaml_unquoted(value: str) -> None:
    assert yaml.safe_load(f"field: {value}") == {"field": value}


def test_as_many_nodes_as_at_least_unless_more_are_allowed(tmp_path: Path) -> None:
    path = edited(tmp_path, "replicas: {min: 2}", "replicas: {min: 3}")
    assert load_manifest(path).cache.spec.nodes.replicas.max == 3
    path = edited(tmp_path, "replicas: {min: 2}", "replicas: {min: 3, max: 5}")
    assert load_manifest(path).cache.spec.nodes.replicas.max == 5
    path = edited(tmp_path, "replicas: {min: 2}", "replicas: {min: many}")
    with pytest.raises(ManifestError, match=r"replicas\.min: Input should be a valid integer") as caught:
        load_manifest(path)
    assert "\n" not in str(caught.value)


def test_nodes_run_the_image_of_the_operators_release_unless_another_is_named(tmp_path: Path) -> None:
    image = load_manifest(DEMO).cache.spec.nodes.template.image
    assert image == f"kvtide/cachenode:{version('kvtide')}"
    path = edited(tmp_path, "replicas: {min: 2}", "replicas: {min: 2}, template: {image: 'here/node:1'}")
    assert load_manifest(path).cache.spec.nodes.template.image == "here/node:1"
