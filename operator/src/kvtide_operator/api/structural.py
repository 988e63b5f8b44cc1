"""Pydantic models as structural schemas: the subset of OpenAPI that a CustomResourceDefinition takes."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import SchemaSerializer, core_schema

from kvtide_operator.api.base import rule

Schema = dict[str, Any]

_NUMBERS: Final = ("minimum", "maximum")
_LENGTHS: Final = ("minLength", "maxLength", "pattern", "format")
_KEPT: Final = {
    "integer": _NUMBERS,
    "number": _NUMBERS,
    "string": _LENGTHS,
    "boolean": (),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}
"""What is kept of a JSON schema by its type; titles and what only JSON Schema knows are left out."""


class _Generator(GenerateJsonSchema):
    """Writes defaults as manifests write them: 1h, not 3600.0."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = self.generate_inner(schema["schema"])
        default = schema.get("default")
        if isinstance(default, BaseModel):
            return {"default": {}, "allOf": [found]}
        if default in (None, (), {}) and not isinstance(default, bool | int | float):
            return found
        written = SchemaSerializer(schema["schema"]).to_python(default, mode="json")
        return {**found, "default": written}


def structural_schema(model: type[BaseModel]) -> Schema:
    """The structural schema of a model: no references, no unions but int-or-string, defaults as written."""
    document = model.model_json_schema(by_alias=True, schema_generator=_Generator)
    return _Converter(document.get("$defs", {})).object(document)


class _Converter:
    """Turns pydantic's JSON schemas into structural ones.

    Attributes:
        definitions: what ``$ref`` refers to.
    """

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self.definitions = definitions

    def schema(self, source: Schema) -> Schema:
        """Any schema, resolved."""
        if "allOf" in source:  # a model with a default, made by `_Generator`
            found = self.schema(source["allOf"][0])
            # The API server checks a default before it fills in those inside.
            default = _defaults(found)
            return {**found, "default": default} if default else found
        if "$ref" in source:
            return self.schema(self.definitions[source["$ref"].rpartition("/")[2]])
        if "anyOf" in source:
            (found,) = (each for each in source["anyOf"] if each.get("type") != "null")
            return self.schema(found)
        if "oneOf" in source:
            return self.union(source["oneOf"], source["discriminator"]["propertyName"])
        if "x-kubernetes-int-or-string" in source:
            kept = ("maxLength", "pattern", "default")
            return _extensions(source) | {key: source[key] for key in kept if key in source}
        if source["type"] == "object":
            return self.object(source) if "properties" in source else self.map(source)
        return self.plain(source)

    def plain(self, source: Schema) -> Schema:
        """A scalar or a list."""
        found: Schema = {"type": source["type"]}
        if "const" in source or "enum" in source:
            found["enum"] = source.get("enum", [source.get("const")])
        found |= {key: source[key] for key in (*_KEPT[source["type"]], "default") if key in source}
        if source["type"] == "array":
            found["items"] = self.schema(source["items"])
        return found | _extensions(source)

    def map(self, source: Schema) -> Schema:
        """An object of free keys; CRDs cannot bound the length of a key."""
        found: Schema = {"type": "object"}
        found |= {key: source[key] for key in _KEPT["object"] if key in source}
        values = source.get("additionalProperties")
        for of_pattern in source.get("patternProperties", {}).values():
            values = of_pattern
        if isinstance(values, dict):
            found["additionalProperties"] = self.schema(values)
        else:
            found["x-kubernetes-preserve-unknown-fields"] = True
        return found

    def object(self, source: Schema) -> Schema:
        """An object of known fields."""
        text, fields = _described(source.get("description", ""))
        found: Schema = {"type": "object"} | ({"description": text} if text else {})
        found["properties"] = {}
        for name, field in source["properties"].items():
            schema = self.schema(field)
            said = fields.get(_letters(name)) or schema.get("description")
            found["properties"][name] = ({"description": said} if said else {}) | _extensions(field) | schema
        if source.get("required"):
            found["required"] = source["required"]
        return found | _extensions(source)

    def union(self, variants: Iterable[Schema], key: str) -> Schema:
        """One object for variants that ``key`` tells apart; CEL rules say which field belongs to which.

        What only some variants have has no default here: it would be given to all.
        """
        schemas = [self.schema(variant) for variant in variants]
        merged: Schema = {"type": "object", "properties": {}}
        values = [value for schema in schemas for value in schema["properties"][key]["enum"]]
        checks: list[dict[str, str]] = []
        for name in dict.fromkeys(name for schema in schemas for name in schema["properties"]):
            having = [schema for schema in schemas if name in schema["properties"]]
            field = dict(having[0]["properties"][name])
            if len(having) < len(schemas):
                field.pop("default", None)
                checks += _belongs(name, key, having)
            merged["properties"][name] = field
        merged["properties"][key] |= {"enum": values}
        merged["required"] = [
            name for name in schemas[0]["required"] if all(name in each["required"] for each in schemas)
        ]
        for schema in schemas:
            (value,) = schema["properties"][key]["enum"]
            for check in schema.get("x-kubernetes-validations", ()):
                checks.append({**check, "rule": f"self.{key} != '{value}' || {check['rule']}"})
        if checks:
            merged["x-kubernetes-validations"] = checks
        return merged


def _belongs(name: str, key: str, having: list[Schema]) -> list[dict[str, str]]:
    """The rules of a field that only one variant has: nowhere else, and there where it is required."""
    (schema,) = having
    (value,) = schema["properties"][key]["enum"]
    found = [
        rule(
            f"self.{key} == '{value}' || !has(self.{name})",
            f"{name} is only for {key} {value}; remove it or change {key}",
        )
    ]
    if name in schema["required"]:
        found.append(
            rule(f"self.{key} != '{value}' || has(self.{name})", f"{key} {value} needs {name}; give it")
        )
    return found


def _extensions(source: Schema) -> Schema:
    return {key: value for key, value in source.items() if key.startswith("x-kubernetes-")}


def _defaults(schema: Schema) -> dict[str, Any]:
    """What an empty object becomes."""
    fields = schema["properties"].items()
    return {name: field["default"] for name, field in fields if "default" in field}


_ATTRIBUTE = re.compile(r"(?m)^    (\w+): ((?:.|\n        )*)")


def _described(docstring: str) -> tuple[str, dict[str, str]]:
    """A docstring's text, and what its ``Attributes:`` say of each field, by the letters of its name."""
    text, _, attributes = docstring.partition("\n\nAttributes:\n")
    fields = {_letters(match[1]): _prose(match[2]) for match in _ATTRIBUTE.finditer(attributes)}
    return _prose(text), fields


def _prose(text: str) -> str:
    sentence = " ".join(text.replace("``", "`").split())
    return sentence[:1].upper() + sentence[1:]


def _letters(name: str) -> str:
    """A field's name without its spelling: gpu_cache and gpuCache are one."""
    return name.replace("_", "").lower().removesuffix("name") or name
