"""From the messages of a chat to what a model is given: the prompt's text, its images, and how to tokenize it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tt_edge.runtime.multimodal.sources import ImageSource, images_of
from tt_edge.runtime.text.chat_template import ChatTemplate, Message


@dataclass(frozen=True, eq=False)
class RenderedChat:
    """The prompt of a chat: its text, and its images in the order of their placeholders.

    ``add_special_tokens``: whether the tokenizer adds its own special tokens (BOS …) to those that the template writes.
    """

    text: str
    images: Sequence[ImageSource] = ()
    add_special_tokens: bool = False


def render_chat(template: ChatTemplate, messages: Sequence[Message], **variables: Any) -> RenderedChat:
    """Render ``messages``, dicts with ``role`` and ``content``; ``variables`` are the template's own.

    Raises ``InvalidInputError`` for what the template refuses, and for images that are none.
    """
    images = images_of(messages)
    return RenderedChat(template.render([_without_media(m) for m in messages], **variables), images)


def _without_media(message: Message) -> Message:
    """``message`` with its images as templates expect them: a part of their type, in Hugging Face's form."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list | tuple):
        return message
    parts = [{"type": "image"} if isinstance(p, Mapping) and p.get("type") == "image_url" else p for p in content]
    return {**message, "content": parts}
