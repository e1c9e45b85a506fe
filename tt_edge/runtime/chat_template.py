"""Chat templates: Jinja with what Hugging Face templates rely on, and no more. Templates are untrusted code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.tokenizer import Files, read_json

Message = Mapping[str, Any]


class ChatTemplate:
    """A compiled template; ``render`` makes the prompt of a conversation."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        from jinja2 import TemplateError

        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise BundleError(
                f"the chat template does not compile ({_one_line(error)}); fix the checkpoint's"
            ) from error

    @classmethod
    def from_bundle(cls, bundle: Files, special_tokens: Mapping[str, str]) -> ChatTemplate | None:
        """The bundle's template, or ``None``. ``chat_template.jinja`` goes before ``tokenizer_config.json``'s entry."""
        if bundle.has("chat_template.jinja"):
            return cls(bundle.read_bytes("chat_template.jinja").decode(), special_tokens)
        entry = read_json(bundle, "tokenizer_config.json").get("chat_template")
        if isinstance(entry, list):  # several, by name
            entry = next((item.get("template") for item in entry if item.get("name") == "default"), None)
        return cls(entry, special_tokens) if isinstance(entry, str) else None

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The text of ``messages``, dicts with ``role`` and ``content``; ``variables`` are the template's own.

        It holds its special tokens already: encode it with ``add_special_tokens=False``.
        Raises ``InvalidInputError`` when the template refuses the conversation.
        """
        from jinja2 import TemplateError

        values: dict[str, Any] = {"tools": None, "documents": None, **self._special_tokens, **variables}
        plain = [_plain(message) for message in messages]
        if not all(isinstance(message, dict) for message in plain):
            raise InvalidInputError('a chat message is not a dict; give {"role": "user", "content": "…"}')
        try:
            return str(
                self._template.render(messages=plain, add_generation_prompt=add_generation_prompt, **_plain(values))
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise InvalidInputError(
                f"the chat template refuses the messages ({_one_line(error)}); check their roles, order and content"
            ) from error


def _environment() -> Any:
    """The Jinja environment of transformers' ``apply_chat_template`` (5.23): whitespace rules, filters, functions."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %} … {% endgeneration %}`` marks what a model is trained on; it renders as its body."""

        tags = {"generation"}  # noqa: RUF012 (Jinja's own signature)

        def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        # Jinja's own escapes HTML characters.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _plain(value: Any) -> Any:
    """A copy of JSON-like data in plain types: no object with methods reaches an untrusted template."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
