"""What all API models share: CamelCase in YAML, snake_case in Python, unknown fields refused."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

from kvtide_operator.api.moment import Time

API_VERSION: Final = "kvtide.dev/v1alpha1"


class Model(BaseModel):
    """A part of a manifest."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid", frozen=True
    )


def rules(*validations: Mapping[str, str]) -> ConfigDict:
    """The configuration of a model whose CRD schema carries these CEL rules.

    They say to an API server what the model's validators say to Python; they stand beside them, so that
    neither changes alone.
    """
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": [dict(each) for each in validations]})


def rule(expression: str, message: str, *, values: str | None = None) -> dict[str, str]:
    """One CEL rule.

    Args:
        expression: true where the object is right.
        message: the sentence for the user: the field and the cure.
        values: a CEL expression of the same sentence with the values in it, where they help.
    """
    validation = {"rule": expression, "message": message}
    if values is not None:
        validation["messageExpression"] = values
    return validation


class Metadata(BaseModel):
    """The part of Kubernetes' object metadata that kvtide reads; the rest is kept out of its way.

    What only an API server fills in is empty in a manifest from a file.
    """

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="ignore", frozen=True)

    name: str = Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    namespace: str = Field(default="default", max_length=63)
    uid: str = Field(default="", max_length=63)
    generation: int = 0
    creation_timestamp: Time = 0.0


Label = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A name that can be a part of other names: lower case letters, digits and ``-``."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""The name of a Kubernetes object."""


class SecretRef(Model):
    """A Secret in the namespace of the cache.

    Attributes:
        name: of the Secret.
    """

    name: ObjectName


AMOUNT_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,12})?$"
RATIO_PATTERN = r"^((100|[0-9]{1,2}(\.[0-9]{1,6})?)%|0(\.[0-9]{1,10})?|1(\.0{1,10})?)$"


MOST_AMOUNT = 10**9
_MOST_AMOUNT_SAID = f"must be at most {MOST_AMOUNT}; give for example 0.00394"


def _bounded(amount: Decimal) -> Decimal:
    if amount > MOST_AMOUNT:
        raise ValueError(_MOST_AMOUNT_SAID)
    return amount


def _decimal_text(value: Any) -> Any:
    # A bare 2.50 in YAML is a binary float; its shortest text is what the author wrote.
    if isinstance(value, float | int) and not isinstance(value, bool):
        return f"{Decimal(str(value)):f}"
    if isinstance(value, str) and re.fullmatch(AMOUNT_PATTERN, value) is None:
        raise ValueError(f"{value[:32]!r} is not a decimal number; write for example 0.00021")
    return value


Amount = Annotated[
    Decimal,
    BeforeValidator(_decimal_text),
    Field(ge=0),
    AfterValidator(_bounded),
    PlainSerializer(lambda amount: f"{amount:f}", return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": 32,
            "pattern": AMOUNT_PATTERN,
            "x-kubernetes-validations": [rule(f"double(self) <= {MOST_AMOUNT}.0", _MOST_AMOUNT_SAID)],
        }
    ),
]
"""A decimal string such as ``"0.00021"``: money and ratios."""


def _ratio_from(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if re.fullmatch(RATIO_PATTERN, value) is None:
        raise ValueError(f"{value[:32]!r} is not a share; write for example 25% or 0.25")
    return float(value[:-1]) / 100 if value.endswith("%") else float(value)


Ratio = Annotated[
    float,
    BeforeValidator(_ratio_from),
    Field(ge=0, le=1),
    PlainSerializer(lambda share: f"{share:.10f}".rstrip("0").rstrip("."), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "maxLength": 16, "pattern": RATIO_PATTERN}),
]
"""A share: ``25%`` or ``0.25``."""
