"""JSON objects of which every field is known."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


class Fields(BaseModel):
    """A JSON object: unknown fields are refused, by name, and ``null`` is as if absent (as OpenAI's schema has it)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        for name in given:  # before pydantic does, which would make an error of each
            if name not in cls.model_fields:
                raise unsupported(str(name)[:80])
        return given


def unsupported(name: str) -> PydanticCustomError:
    """For a validator to raise: the field ``name`` is refused."""
    return PydanticCustomError("unsupported", "{name} is not supported; omit it", {"name": name})
