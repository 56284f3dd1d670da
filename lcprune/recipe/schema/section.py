"""What every section of a recipe is."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticKnownError

from lcprune.specs import HEADS, METHODS

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


def _name_in(table: Mapping[str, object]) -> tuple[AfterValidator, WithJsonSchema]:
    """Lets a key be one of the names of a table of `lcprune.specs`, as a Literal of them would."""

    def known(name: str) -> str:
        if name not in table:
            *others, last = map(repr, table)
            raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
        return name

    return AfterValidator(known), WithJsonSchema({"enum": list(table), "type": "string"})


Method = Annotated[str, *_name_in(METHODS)]
Head = Annotated[str, *_name_in(HEADS)]


class Section(BaseModel):
    """What every section shares: frozen, unknown keys refused, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        is_switch = cls.model_fields[str(info.field_name)].annotation is bool
        if not is_switch and any(isinstance(part, bool) for part in (value if isinstance(value, list) else [value])):
            raise ValueError(f"{json.dumps(value)} is no value for it")
        return value
