"""Chat templates: Jinja with what Hugging Face templates rely on, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tt_edge.errors import BundleError, InvalidInputError, one_line
from tt_edge.runtime.text.tokenizer import Files, read_json

Message = Mapping[str, Any]

#: The template of a checkpoint with several that is used where ``tools`` are given, and the one that is used otherwise.
_TOOLS, _DEFAULT = "tool_use", "default"
#: In a bundle: the template for chats with a video, where the checkpoint's own is not used for them (SmolVLM).
VIDEO_TEMPLATE_FILE = "additional_chat_templates/video.jinja"
#: Stands at the end of a message that is to be continued, as in transformers.
_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "
#: Names of a message's reasoning, as transformers reads them; templates read the first, and gpt-oss's the second.
_REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A compiled template; ``render`` makes the prompt of a conversation, as transformers' ``apply_chat_template`` does.

    ``tools_source`` is a second template, for conversations with ``tools``; ``videos`` is another for those with a video, if any.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], tools_source: str | None = None) -> None:
        self.videos: ChatTemplate | None = None
        self.special_tokens = dict(special_tokens)
        self.source = source
        self._template = _compile(source)
        self._for_tools = self._template if tools_source is None else _compile(tools_source)

    @classmethod
    def from_bundle(cls, bundle: Files, special_tokens: Mapping[str, str]) -> ChatTemplate | None:
        """The bundle's template, or ``None``. ``chat_template.jinja`` goes before ``tokenizer_config.json``'s entry."""
        found = cls._from_bundle(bundle, special_tokens)
        if found is not None and bundle.has(VIDEO_TEMPLATE_FILE):
            found.videos = cls(_read(bundle, VIDEO_TEMPLATE_FILE), special_tokens)
        return found

    @classmethod
    def _from_bundle(cls, bundle: Files, special_tokens: Mapping[str, str]) -> ChatTemplate | None:
        if bundle.has("chat_template.jinja"):
            more = f"additional_chat_templates/{_TOOLS}.jinja"
            tools = _read(bundle, more) if bundle.has(more) else None
            return cls(_read(bundle, "chat_template.jinja"), special_tokens, tools)
        entry = read_json(bundle, "tokenizer_config.json").get("chat_template")
        if isinstance(entry, list):  # several, by name
            items = ((item.get("name"), item.get("template")) for item in entry if isinstance(item, dict))
            named = {name: source for name, source in items if isinstance(name, str) and isinstance(source, str)}
            return cls(named[_DEFAULT], special_tokens, named.get(_TOOLS)) if _DEFAULT in named else None
        return cls(entry, special_tokens) if isinstance(entry, str) else None

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The text of ``messages``, dicts with ``role`` and ``content``; ``variables`` are the template's own.

        ``add_generation_prompt`` begins the assistant's answer, unless ``continue_final_message`` leaves the last message
        open, for the model to continue. ``text/chat.py`` says how to tokenize the result.
        Raises ``InvalidInputError`` when the template refuses the conversation, or takes more than ``template_limits``
        allow.
        """
        if add_generation_prompt and continue_final_message:
            raise InvalidInputError("add_generation_prompt and continue_final_message exclude each other; omit one")
        plain = [_plain(message) for message in messages]
        if not all(isinstance(message, dict) for message in plain):
            raise InvalidInputError('a chat message is not a dict; give {"role": "user", "content": "…"}')
        plain = [_as_templates_read_it(message) for message in plain]
        last = _open_end(plain) if continue_final_message else ""
        values: dict[str, Any] = {"tools": None, "documents": None, **self.special_tokens, **variables}
        begins = not continue_final_message if add_generation_prompt is None else add_generation_prompt
        values = {**_plain(values), "messages": plain, "add_generation_prompt": begins}
        text = self._render(values)
        return _cut_at_the_open_end(text, last) if continue_final_message else text

    def _render(self, values: dict[str, Any]) -> str:
        from tt_edge.runtime.text.template_limits import TemplateLimitError
        from tt_edge.runtime.text.template_sandbox import render

        try:
            return render(self._template if values["tools"] is None else self._for_tools, values)
        except TemplateLimitError as error:
            raise InvalidInputError(f"{one_line(error)}; shorten the messages, or fix the bundle's template") from error
        except Exception as error:  # a template can make Python raise anything
            raise InvalidInputError(
                f"the chat template refuses the messages ({one_line(error)}); check their roles, order and content"
            ) from error


def _compile(source: str) -> Any:
    from jinja2 import TemplateError

    from tt_edge.runtime.text.template_sandbox import compile_template

    try:
        return compile_template(source)
    except TemplateError as error:
        raise BundleError(f"the chat template does not compile ({one_line(error)}); fix the checkpoint's") from error


def _read(bundle: Files, name: str) -> str:
    try:
        return bundle.read_bytes(name).decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{name} is not UTF-8 ({error}); fix the checkpoint's") from error


def _as_templates_read_it(message: dict[str, Any]) -> dict[str, Any]:
    """Without entries that are ``None``, and with the reasoning by the names that templates have for it."""
    message = {key: value for key, value in message.items() if value is not None}
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _open_end(messages: list[dict[str, Any]]) -> str:
    """Put the tag behind the last message's text; returns that text."""
    content = messages[-1].get("content") if messages else None
    if isinstance(content, str):
        messages[-1]["content"] = content + _CONTINUE
        return content
    for part in reversed(content if isinstance(content, list) else []):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text: str = part["text"]
            part["text"] = text + _CONTINUE
            return text
    raise InvalidInputError("continue_final_message needs a last message with text to continue; add one, or omit it")


def _cut_at_the_open_end(text: str, last: str) -> str:
    """``text`` up to the tag, and without the spaces that the template took off the last message."""
    if last.strip() not in text or _CONTINUE.strip() not in text:
        raise InvalidInputError(
            "the chat template changes the last message, so it cannot be continued; omit continue_final_message"
        )
    end = text.rindex(_CONTINUE.strip())
    return text[:end] if text.startswith(_CONTINUE, end) else text[:end].rstrip()


def _plain(value: Any) -> Any:
    """A copy of JSON-like data in plain types: no object with methods reaches an untrusted template."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return str.__str__(value)
    return str(value)
