"""What all API models share: CamelCase in YAML, snake_case in Python, unknown fields refused."""

from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

API_VERSION: Final = "kvtide.dev/v1alpha1"


class Model(BaseModel):
    """A part of a manifest."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid", frozen=True
    )


class Metadata(BaseModel):
    """The part of Kubernetes' object metadata that kvtide reads; the rest is kept out of its way."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str = Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    namespace: str = Field(default="default", max_length=63)


def _decimal_text(value: Any) -> Any:
    # A bare 2.50 in YAML is a binary float; its shortest text is what the author wrote.
    return str(value) if isinstance(value, float | int) and not isinstance(value, bool) else value


Amount = Annotated[Decimal, BeforeValidator(_decimal_text), Field(ge=0)]
"""A decimal string such as ``"0.00021"``: money and ratios."""


def _ratio_from(value: Any) -> Any:
    if isinstance(value, str) and value.endswith("%"):
        return float(value[:-1]) / 100
    return value


Ratio = Annotated[float, BeforeValidator(_ratio_from), Field(ge=0, le=1)]
"""A share: ``25%`` or ``0.25``."""
