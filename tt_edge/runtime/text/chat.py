"""From the messages of a chat to the prompt of a model: its text, its images, and how to tokenize it. Torch-free.

A chat template takes the content of a message as a string, as a list of parts, or as either; the other form it may drop
without an error. So every chat is rendered once with marks in place of its texts: the form in which all marks come out is
the one to use, and a chat that no form gets through whole is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.sources import ImageSource, images_of
from tt_edge.runtime.text.chat_template import ChatTemplate, Message

#: A key that templates do not know; its value comes out where a template prints a part as data.
_DATA_KEY = "tt_edge_part"
#: The types of parts that stand for an image, by the name that Hugging Face's templates have for it.
_MEDIA = {"image": "image", "image_url": "image", "video": "video"}


#: Stands for the tools among the indices of messages.
_TOOLS = -1


@dataclass(frozen=True, eq=False)
class RenderedChat:
    """The prompt of a chat: its text, and its images in the order of their placeholders.

    ``add_special_tokens``: whether the tokenizer adds its own special tokens (BOS …) to those that the template writes.
    """

    text: str
    images: Sequence[ImageSource] = ()
    add_special_tokens: bool = False


def render_chat(
    template: ChatTemplate, messages: Sequence[Message], *, has_processor: bool = False, **variables: Any
) -> RenderedChat:
    """Render ``messages``, dicts with ``role`` and ``content``; ``variables`` are the template's own.

    Tokenized as the result says, the ids are those of transformers' ``apply_chat_template(tokenize=True)``: a tokenizer's adds
    no special tokens to a chat; a processor's (``has_processor``: of a vision-language model) adds them unless the text begins
    with BOS. Raises ``InvalidInputError`` for what the template refuses or leaves out, and for images that are none.
    """
    tools = variables.get("tools")
    if tools and not (isinstance(tools, list | tuple) and all(isinstance(tool, Mapping) for tool in tools)):
        raise InvalidInputError('tools is not a list of dicts such as {"type": "function", "function": {"name": "…"}}')
    images = images_of(messages)
    if not messages or not all(isinstance(message, Mapping) for message in messages):
        raise InvalidInputError('a chat is a list of one or more dicts such as {"role": "user", "content": "…"}')
    if template.videos is not None and _has_video(messages):
        template = template.videos
    text = template.render(
        _in_the_templates_form(template, [without_media(m) for m in messages], variables), **variables
    )
    begin = template.special_tokens.get("bos_token")
    return RenderedChat(text, images, has_processor and not (begin and text.startswith(begin)))


def _has_video(messages: Sequence[Message]) -> bool:
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list | tuple) for part in content]
    return any(isinstance(part, Mapping) and part.get("type") == "video" for part in parts)


def without_media(message: Message) -> Message:
    """``message`` with its images and videos in Hugging Face's form, as parts that have only a type."""
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return message
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        parts.append({"type": _MEDIA[kind]} if kind in _MEDIA else part)
    return {**message, "content": parts}


def _in_the_templates_form(
    template: ChatTemplate, messages: list[Message], variables: Mapping[str, Any]
) -> list[Message]:
    """``messages`` with contents as strings or parts, whichever ``template`` shows in full; as they are, if it can be.

    Raises ``InvalidInputError`` where it shows neither.
    """
    failure: InvalidInputError | None = None
    lost: set[int] = set()
    forms = [messages, [as_parts(m) for m in messages], [_as_string(m) for m in messages]]
    if any(message.get("tool_calls") for message in messages):
        forms += [[_with_calls_as_text(m) for m in form] for form in forms]
    for form in forms:
        try:
            missing = _missing(template, form, variables)
            lost = lost or missing
            if missing - {_TOOLS}:  # one form for these, the other for the rest
                form = [_other_form(message) if index in missing else message for index, message in enumerate(form)]
                missing = _missing(template, form, variables)
        except InvalidInputError as error:
            failure = failure or error
            continue
        if not missing:
            return form
    if failure is not None and not lost:
        raise failure
    index = min(lost)
    if index == _TOOLS:
        raise InvalidInputError(
            "the chat template does not show the tools to the model; omit tools, or compile with a chat template that shows "
            "them"
        )
    what = "the text or a tool call" if messages[index].get("tool_calls") else "the text"
    raise InvalidInputError(
        f"the chat template leaves out {what} of message {index + 1} of {len(messages)}, which has role "
        f"{messages[index].get('role')!r}; omit that message, or compile with a chat template that shows it"
    )


def as_parts(message: Message) -> Message:
    """``message`` with its content, if it is a string, as one part."""
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _as_string(message: Message) -> Message:
    """With parts that are all text as one string."""
    content = message.get("content")
    if not isinstance(content, list | tuple) or not all(_is_text(part) for part in content):
        return message
    return {**message, "content": "".join(part if isinstance(part, str) else part["text"] for part in content)}


def _with_calls_as_text(message: Message) -> Message:
    """With the arguments of tool calls as JSON text, which some templates take instead of an object."""

    def as_text(call: Any) -> Any:
        if not isinstance(call, Mapping):
            return call
        found = {**call, "function": as_text(call["function"])} if "function" in call else dict(call)
        if isinstance(found.get("arguments"), Mapping):
            found["arguments"] = json.dumps(found["arguments"], ensure_ascii=False)
        return found

    calls = message.get("tool_calls")
    return {**message, "tool_calls": [as_text(call) for call in calls]} if isinstance(calls, list | tuple) else message


def _other_form(message: Message) -> Message:
    return as_parts(message) if isinstance(message.get("content"), str) else _as_string(message)


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, Mapping) and isinstance(part.get("text"), str))


def _missing(template: ChatTemplate, messages: Sequence[Message], variables: Mapping[str, Any]) -> set[int]:
    """Indices of the messages of which ``template`` does not show every text, or prints a part as data; ``_TOOLS`` for tools."""
    marks = _Marks()
    shown_tools: list[str] = []
    if variables.get("tools"):
        variables = {**variables, "tools": [marks.tool(tool, shown_tools) for tool in variables["tools"]]}
    probes = [marks.put(message) for message in messages]
    plain = {name: value for name, value in variables.items() if name != "continue_final_message"}
    text = template.render([probe for probe, _, _ in probes], **plain)
    missing = {
        index
        for index, (_, shown, hidden) in enumerate(probes)
        if not all(mark in text for mark in shown) or any(mark in text for mark in hidden)
    }
    return missing if all(mark in text for mark in shown_tools) else missing | {_TOOLS}


class _Marks:
    """Replaces texts by marks: digits, which templates neither trim, escape nor change the case of."""

    def __init__(self) -> None:
        self._count = 0

    def put(self, message: Message) -> tuple[Message, list[str], list[str]]:
        """``message`` with marks for its texts; the marks to be shown, and those that are not to be."""
        shown: list[str] = []
        hidden: list[str] = []
        marked = dict(message)
        content = message.get("content")
        if isinstance(content, str):
            marked["content"] = self._mark(content, shown)
        elif isinstance(content, list | tuple):
            marked["content"] = [self._part(part, shown, hidden) for part in content]
        calls = message.get("tool_calls")
        if isinstance(calls, list | tuple):
            marked["tool_calls"] = [self._call(call, shown, hidden) for call in calls]
        return marked, shown, hidden

    def _next(self) -> str:
        self._count += 1
        return f"7309{self._count:08d}5417"

    def _mark(self, text: str, shown: list[str]) -> str:
        """As long as ``text`` where that is longer than two marks: a template that cuts it short is seen."""
        if not text:
            return text
        ends = [self._next()]
        if len(text) > 2 * len(ends[0]):
            ends.append(self._next())
        shown += ends
        return ends[0] + "0" * (len(text) - 2 * len(ends[0])) + ends[1] if len(ends) == 2 else ends[0]

    def _part(self, part: Any, shown: list[str], hidden: list[str]) -> Any:
        if isinstance(part, str):
            return self._mark(part, shown)
        if not isinstance(part, Mapping):
            return part
        hidden.append(self._next())
        marked = {**part, _DATA_KEY: hidden[-1]}
        if isinstance(part.get("text"), str):
            marked["text"] = self._mark(part["text"], shown)
        return marked

    def _call(self, call: Any, shown: list[str], hidden: list[str]) -> Any:
        """A tool call: the name of its function, and its arguments."""
        if not isinstance(call, Mapping):
            return call
        inner = call.get("function")
        if isinstance(inner, Mapping):
            return {**call, "function": self._call(inner, shown, hidden)}
        marked, arguments = dict(call), call.get("arguments")
        if isinstance(call.get("name"), str):
            marked["name"] = self._mark(call["name"], shown)
        if isinstance(arguments, Mapping):
            marked["arguments"] = {**arguments, _DATA_KEY: self._mark("x", shown)}
            hidden.append(f"'{shown[-1]}'")  # printed as Python data
        elif isinstance(arguments, str):
            marked["arguments"] = self._mark(arguments, shown)
        return marked

    def tool(self, tool: Message, shown: list[str]) -> Message:
        """A tool: its name and its description."""
        inner = tool.get("function")
        if isinstance(inner, Mapping):
            return {**tool, "function": self.tool(inner, shown)}
        texts = {key: self._mark(tool[key], shown) for key in ("name", "description") if isinstance(tool.get(key), str)}
        return {**tool, **texts}
