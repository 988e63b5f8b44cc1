"""The definitions: current, structural, bounded, and with the models' own defaults."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kvtide_operator.api.crd import KINDS, definition, main, rendered
from kvtide_operator.api.tieredcache import TieredCacheSpec

ROOT = Path(__file__).parents[2]
SPECS = {kind.name: definition(kind) for kind in KINDS}
FORBIDDEN = {
    "$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "title", "const", "additionalItems",
    "discriminator", "propertyNames", "patternProperties",
}  # fmt: skip


def schema_of(kind: str) -> dict[str, Any]:
    return SPECS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def parts(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within a schema, with its path, but what an API server knows by itself."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        if path or name not in ("apiVersion", "kind", "metadata"):
            yield from parts(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from parts(schema[key], f"{path}[]")


ALL = [(kind, path, part) for kind in SPECS for path, part in parts(schema_of(kind))]


def test_the_files_are_what_the_models_say() -> None:
    assert main(["--check", str(ROOT / "crds")]) == 0, "run python -m kvtide_operator.api.crd"


def test_an_outdated_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "kvtide.dev_tierclasses.yaml").write_text("kind: other\n")
    assert main(["--check", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "kvtide.dev_tierclasses.yaml is not what the models say; run python -m" in said
    assert said.count("\n") == 1


def test_the_files_hold_no_aliases_and_read_back() -> None:
    for text in rendered().values():
        assert "&id" not in text
    assert [yaml.safe_load(text) for text in rendered().values()] == list(SPECS.values())


def test_schemas_are_structural() -> None:
    for kind, path, part in ALL:
        assert FORBIDDEN.isdisjoint(part), (kind, path)
        assert ("type" in part) != ("x-kubernetes-int-or-string" in part), (kind, path)
        assert not isinstance(part.get("type"), list), (kind, path)


def test_everything_has_a_limit() -> None:
    for kind, path, part in ALL:
        if part.get("type") == "string" or "x-kubernetes-int-or-string" in part:
            limited = "maxLength" in part or "enum" in part or part.get("format") == "date-time"
            assert limited, (kind, path)
        if part.get("type") == "array":
            assert "maxItems" in part, (kind, path)
        if part.get("type") == "object" and "additionalProperties" in part:
            assert "maxProperties" in part, (kind, path)


def test_tiers_and_conditions_are_maps() -> None:
    found = dict(parts(schema_of("TieredCache")))
    for path, key in (
        (".spec.tiers", "name"),
        (".status.tiers", "name"),
        (".status.nodes", "name"),
        (".status.conditions", "type"),
    ):
        assert found[path]["x-kubernetes-list-type"] == "map"
        assert found[path]["x-kubernetes-list-map-keys"] == [key]
        assert key in found[path]["items"]["required"], path


def test_every_rule_has_a_sentence() -> None:
    rules = [rule for _, _, part in ALL for rule in part.get("x-kubernetes-validations", ())]
    assert len(rules) > 25
    for rule in rules:
        assert len(rule["message"].split()) >= 4, rule
        assert not rule["message"].endswith("."), rule


def defaulted(value: Any, schema: dict[str, Any]) -> Any:
    """What an API server makes of a value (structural defaulting)."""
    if isinstance(value, dict):
        value = dict(value)
        for name, field in schema.get("properties", {}).items():
            if name not in value and "default" in field:
                value[name] = field["default"]
            if name in value:
                value[name] = defaulted(value[name], field)
    if isinstance(value, list):
        return [defaulted(each, schema["items"]) for each in value]
    return value


SPEC = schema_of("TieredCache")["properties"]["spec"]


@pytest.mark.parametrize("name", ["vllm-small", "vllm-large", "sglang-small", "sglang-large"])
def test_stored_defaults_are_the_models_own(name: str) -> None:
    declared = yaml.safe_load((ROOT / f"samples/{name}.yaml").read_text())["spec"]
    stored = defaulted(declared, SPEC)
    assert stored != declared
    assert TieredCacheSpec.model_validate(stored) == TieredCacheSpec.model_validate(declared)
    assert defaulted(stored, SPEC) == stored


def test_a_part_that_is_begun_gets_the_same_defaults_as_one_that_is_left_out() -> None:
    declared = yaml.safe_load((ROOT / "samples/vllm-small.yaml").read_text())["spec"]
    begun = {**declared, "scaling": {"down": {}, "up": {}}, "objective": {}}
    assert TieredCacheSpec.model_validate(begun) == TieredCacheSpec.model_validate(declared)
    assert defaulted(begun, SPEC) == defaulted(declared, SPEC)


ENUMS = sorted({value for _, _, part in ALL for value in part.get("enum", ())})


@pytest.mark.parametrize("value", ENUMS)
def test_every_documented_value_survives_yaml_unquoted(value: str) -> None:
    if value in ("True", "False"):  # of conditions: Kubernetes' own, written by programs
        pytest.skip("not for people to write")
    assert yaml.safe_load(f"field: {value}") == {"field": value}


def test_a_dumped_spec_reads_back_and_dumps_the_same() -> None:
    for path in (ROOT / "samples").glob("*l*g*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            spec = TieredCacheSpec.model_validate(document["spec"])
            written = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
            again = TieredCacheSpec.model_validate(written)
            assert again == spec
            assert again.model_dump(mode="json", by_alias=True, exclude_none=True) == written


def test_kubectl_explains_every_field_that_people_write() -> None:
    for kind, path, part in ALL:
        for name, field in part.get("properties", {}).items():
            if f"{path}.{name}".startswith(".spec."):
                said = field.get("description", "")
                assert len(said) > 5, (kind, f"{path}.{name}")
                assert "None" not in said, (kind, f"{path}.{name}")
                assert said.startswith(said[0].upper()), (kind, f"{path}.{name}")
