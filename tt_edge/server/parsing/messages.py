"""Messages of chat requests: text, images as ``data:`` URLs, and calls of tools."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from tt_edge.server.parsing.fields import Fields, unsupported
from tt_edge.server.parsing.tools import ToolCalls

#: Most parts of a message.
MAX_PARTS = 256

#: Fields of OpenAI's messages that are taken where they are empty, as clients send answers back.
_EMPTY = ("function_call", "audio", "refusal", "annotations", "reasoning_content")


class TextPart(Fields):
    """A part of a message: text."""

    type: Literal["text"]
    text: str


class ImageUrl(Fields):
    """An image in a ``data:`` URL.

    Nothing else is taken: a client must not have the server read its files, or fetch what the client cannot reach itself.
    ``detail`` ``low`` makes the image at most 512 x 512 pixels; ``high`` and ``auto`` take it as it is.
    """

    url: str
    detail: Literal["auto", "low", "high"] = "auto"

    @field_validator("url")
    @classmethod
    def _is_data(cls, url: str) -> str:
        if not url.startswith("data:"):
            scheme, colon, _ = url[:64].partition(":")
            what = f"of scheme {scheme!r}" if colon else "without a scheme"
            raise ValueError(f"image URLs {what} are not fetched here; send the image as data:image/…;base64,…")
        return url


class ImagePart(Fields):
    """A part of a message: an image, and its size as qwen-vl-utils has it."""

    type: Literal["image_url"]
    image_url: ImageUrl
    min_pixels: int | None = None
    max_pixels: int | None = None
    resized_height: int | None = None
    resized_width: int | None = None


_Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
_Parts = Annotated[list[_Part], Field(max_length=MAX_PARTS, fail_fast=True), Tag("parts")]
#: Told apart before they are validated, so that the error says what is wrong with a part and not that a list is no string.
Content = Annotated[
    Annotated[str, Tag("text")] | _Parts, Discriminator(lambda content: "text" if isinstance(content, str) else "parts")
]


class ChatMessage(Fields):
    """A turn of a conversation. ``name``, ``tool_calls`` and ``tool_call_id`` go to the chat template, as in transformers."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = Field(None, max_length=512)
    tool_calls: ToolCalls | None = None
    tool_call_id: str | None = Field(None, max_length=512)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_dropped(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name in _EMPTY:
            if data.get(name):
                raise unsupported(name)
        return {name: value for name, value in data.items() if name not in _EMPTY}

    @model_validator(mode="after")
    def _fits_its_role(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls are an assistant's, and the role is {self.role}; omit them")
        if self.tool_call_id is not None and self.role != "tool":
            raise ValueError(f"tool_call_id is for the role tool, and the role is {self.role}; omit it")
        return self

    @property
    def images(self) -> int:
        """How many images it has."""
        parts = self.content if isinstance(self.content, list) else []
        return sum(isinstance(part, ImagePart) for part in parts)

    @property
    def text_length(self) -> int:
        """Characters of its text."""
        if isinstance(self.content, list):
            return sum(len(part.text) for part in self.content if isinstance(part, TextPart))
        return len(self.content or "")

    def plain(self) -> dict[str, Any]:
        """For a chat template: text without images as one string, otherwise parts.

        Chat templates know ``developer`` by its older name ``system``.
        """
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role}
        for name in ("name", "tool_call_id"):
            if (value := getattr(self, name)) is not None:
                message[name] = value
        if self.tool_calls:
            message["tool_calls"] = [call.plain() for call in self.tool_calls]
        parts = self.content or ""
        if isinstance(parts, str):
            return {**message, "content": parts}
        if not self.images:
            return {**message, "content": "".join(part.text for part in parts if isinstance(part, TextPart))}
        return {**message, "content": [part.model_dump(exclude_none=True) for part in parts]}


Messages = Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
