"""Tools of chat requests, and calls of them in earlier messages, as a chat template reads them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import from_json

from tt_edge.server.parsing.fields import Fields

#: Most tools of a request, and most calls of a message.
MAX_TOOLS = 128


class FunctionOfTool(Fields):
    """A function that the model may call; ``parameters`` is a JSON schema, which is not checked."""

    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Fields):
    """An entry of ``tools``."""

    type: Literal["function"]
    function: FunctionOfTool


class CalledFunction(Fields):
    """The function of a call. OpenAI's API has ``arguments`` as JSON text; templates take an object, as in transformers."""

    name: str = Field(min_length=1, max_length=256)
    arguments: dict[str, Any]

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_object(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        try:
            found = from_json(given, allow_inf_nan=False) if given.strip() else {}
        except ValueError as error:
            raise ValueError(f"is not JSON ({error}); send a JSON object as text") from None
        if not isinstance(found, dict):
            raise ValueError("is JSON, but not an object; send the arguments by name")
        return found


class ToolCall(Fields):
    """A call that the assistant made in an earlier message."""

    id: str | None = Field(None, max_length=512)
    type: Literal["function"] = "function"
    function: CalledFunction

    def plain(self) -> dict[str, Any]:
        """For a chat template."""
        return self.model_dump(exclude_none=True)


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]
ToolCalls = Annotated[list[ToolCall], Field(max_length=MAX_TOOLS, fail_fast=True)]


def for_template(tools: list[Tool]) -> list[dict[str, Any]]:
    """``tools`` as the client sent them, without fields that are absent."""
    return [tool.model_dump(exclude_unset=True) for tool in tools]
