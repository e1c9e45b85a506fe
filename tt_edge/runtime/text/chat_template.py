"""Chat templates: Jinja with what Hugging Face templates rely on, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tt_edge.errors import BundleError, InvalidInputError, one_line
from tt_edge.runtime.text.tokenizer import Files, read_json

Message = Mapping[str, Any]


class ChatTemplate:
    """A compiled template; ``render`` makes the prompt of a conversation."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        from jinja2 import TemplateError

        from tt_edge.runtime.text.template_sandbox import compile_template

        self._special_tokens = dict(special_tokens)
        try:
            self._template = compile_template(source)
        except TemplateError as error:
            raise BundleError(
                f"the chat template does not compile ({one_line(error)}); fix the checkpoint's"
            ) from error

    @classmethod
    def from_bundle(cls, bundle: Files, special_tokens: Mapping[str, str]) -> ChatTemplate | None:
        """The bundle's template, or ``None``. ``chat_template.jinja`` goes before ``tokenizer_config.json``'s entry."""
        if bundle.has("chat_template.jinja"):
            try:
                source = bundle.read_bytes("chat_template.jinja").decode()
            except UnicodeDecodeError as error:
                raise BundleError(f"chat_template.jinja is not UTF-8 ({error}); fix the checkpoint's") from error
            return cls(source, special_tokens)
        entry = read_json(bundle, "tokenizer_config.json").get("chat_template")
        if isinstance(entry, list):  # several, by name
            named = (item for item in entry if isinstance(item, dict))
            entry = next((item.get("template") for item in named if item.get("name") == "default"), None)
        return cls(entry, special_tokens) if isinstance(entry, str) else None

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The text of ``messages``, dicts with ``role`` and ``content``; ``variables`` are the template's own.

        It holds its special tokens already: encode it with ``add_special_tokens=False``.
        Raises ``InvalidInputError`` when the template refuses the conversation, or takes more than ``template_limits``
        allow.
        """
        from tt_edge.runtime.text.template_limits import TemplateLimitError
        from tt_edge.runtime.text.template_sandbox import render

        values: dict[str, Any] = {"tools": None, "documents": None, **self._special_tokens, **variables}
        plain = [_plain(message) for message in messages]
        if not all(isinstance(message, dict) for message in plain):
            raise InvalidInputError('a chat message is not a dict; give {"role": "user", "content": "…"}')
        variables = {**_plain(values), "messages": plain, "add_generation_prompt": add_generation_prompt}
        try:
            return render(self._template, variables)
        except TemplateLimitError as error:
            raise InvalidInputError(f"{one_line(error)}; shorten the messages, or fix the bundle's template") from error
        except Exception as error:  # a template can make Python raise anything
            raise InvalidInputError(
                f"the chat template refuses the messages ({one_line(error)}); check their roles, order and content"
            ) from error


def _plain(value: Any) -> Any:
    """A copy of JSON-like data in plain types: no object with methods reaches an untrusted template."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
