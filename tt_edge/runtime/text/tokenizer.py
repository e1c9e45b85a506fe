"""Text to token ids and back, as transformers' fast tokenizers do it, with only the ``tokenizers`` library."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from tt_edge import strict_json
from tt_edge.errors import BundleError, InvalidInputError, one_line
from tt_edge.runtime.text.token_bytes import TokenBytes
from tt_edge.runtime.text.tokenizer_limits import broken_merge, is_bounded
from tt_edge.runtime.text.tokenizer_process import TokenizerProcess

#: Characters from which on a text is encoded by the library's call for batches, which lets other threads run meanwhile.
LONG_TEXT = 10_000
#: Changes to a ``tokenizer.json`` that leave its vocabulary.
_VOCABULARY_ONLY = {"normalizer": None, "pre_tokenizer": None, "decoder": None}


class Files(Protocol):
    """Where the tokenizer's files come from: a bundle, in practice."""

    def has(self, name: str) -> bool: ...

    def read_bytes(self, name: str) -> bytes: ...


def read_json(files: Files, name: str) -> dict[str, Any]:
    """A JSON object among ``files``, empty when it is not there. Raises ``BundleError`` when it is something else."""
    if not files.has(name):
        return {}
    try:
        data = strict_json.loads(files.read_bytes(name))
    except ValueError as error:
        raise BundleError(f"{name} is not valid JSON ({error}); compile the model again") from error
    if not isinstance(data, dict):
        raise BundleError(f"{name} holds a {type(data).__name__}, not an object; compile the model again")
    return data


class BundleTokenizer:
    """A tokenizer, its special tokens by role (``bos_token`` …) and the ids that end a generation."""

    def __init__(
        self,
        backend: Any,
        special_tokens: dict[str, str],
        eos_token_ids: tuple[int, ...],
        process: TokenizerProcess | None = None,
    ) -> None:
        self.backend = backend  # a tokenizers.Tokenizer
        self._process = process  # encodes and decodes in its place
        self.special_tokens = special_tokens
        self.eos_token_ids = eos_token_ids
        self._bytes = TokenBytes(backend)

    @classmethod
    def from_bundle(cls, bundle: Files) -> BundleTokenizer:
        """Read ``tokenizer.json`` and the settings beside it.

        The end-of-sequence ids are ``generation_config.json``'s, one or several, or else the tokenizer's own.
        Raises ``BundleError`` when a file is missing or unreadable.
        """
        from tokenizers import Tokenizer

        if not bundle.has("tokenizer.json"):
            raise BundleError(
                "the bundle has no tokenizer.json, so it takes token ids only; "
                "compile from a checkpoint that has a tokenizer to run it on text"
            )
        config = read_json(bundle, "tokenizer_config.json")
        state = read_json(bundle, "tokenizer.json")
        if (merge := broken_merge(state)) is not None:
            raise BundleError(
                f"tokenizer.json has the merge {merge[:80]}, whose second part does not have its continuing_subword_prefix; "
                "compile the model again"
            )
        bounded = is_bounded(state)
        # One that may take any time is used in a process of its own, and here only for its vocabulary.
        content = bundle.read_bytes("tokenizer.json") if bounded else json.dumps({**state, **_VOCABULARY_ONLY}).encode()
        with _bundle_errors("be read"):
            backend = Tokenizer.from_buffer(content)
        # What a checkpoint's author padded and truncated to is no property of the model; transformers resets it too.
        backend.no_padding()
        backend.no_truncation()
        special = special_tokens_of(read_json(bundle, "special_tokens_map.json") | config)
        if "add_bos_token" in config or "add_eos_token" in config or backend.post_processor is None:
            _add_begin_and_end(backend, special, bool(config.get("add_bos_token")), bool(config.get("add_eos_token")))
        eos = read_json(bundle, "generation_config.json").get("eos_token_id")
        if eos is None:
            eos = backend.token_to_id(special["eos_token"]) if "eos_token" in special else None
        return cls(backend, special, _as_ids(eos), None if bounded else _process(state, backend))

    def close(self) -> None:
        """End the process of a tokenizer that has one."""
        if self._process is not None:
            self._process.close()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``, as ``tokenizer(text).input_ids``. Chat templates write their own special tokens.

        Raises ``InvalidInputError`` for text that is not Unicode (half of a surrogate pair). Thread-safe.
        """
        _check_unicode(text)
        if self._process is not None:
            return self._process.encode(text, add_special_tokens)
        with _bundle_errors("encode this text"):
            if len(text) > LONG_TEXT:
                return list(self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)
            return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ``token_ids``. Bytes that are not UTF-8 become U+FFFD. Ids beyond the vocabulary give nothing.

        Raises ``InvalidInputError`` for an id that is not one: negative, or of more than 32 bits.
        """
        ids = list(token_ids)
        if ids and not 0 <= min(ids) <= max(ids) < 2**32:
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise InvalidInputError(
                f"token id {wrong} is in no vocabulary; encode the text with the bundle's own tokenizer"
            )
        if self._process is not None:
            return self._process.decode(ids, skip_special_tokens)
        with _bundle_errors("decode these tokens"):
            return str(self.backend.decode(ids, skip_special_tokens=skip_special_tokens))

    def token_bytes(self, token: int) -> bytes:
        """The bytes that ``token`` stands for in the middle of a text: of a token that is half of ``é``, ``b"\\xc3"``."""
        return self._bytes(token)

    def special_tokens_in(self, strings: Sequence[str]) -> dict[int, str]:
        """The special tokens, by id, that one of ``strings`` contains. ``decode`` leaves them out."""
        added = self.backend.get_added_tokens_decoder().items()
        special = {index: str(token.content) for index, token in added if token.special}
        return {index: text for index, text in special.items() if text and any(text in string for string in strings)}


def _process(state: dict[str, Any], backend: Any) -> TokenizerProcess:
    """``state`` with what was set on ``backend``, in a process of its own. Raises ``BundleError`` where it cannot take a letter."""
    behind = None if backend.post_processor is None else json.loads(backend.post_processor.__getstate__())
    process = TokenizerProcess(json.dumps({**state, "truncation": None, "padding": None, "post_processor": behind}))
    try:
        process.encode("a", False)
    except InvalidInputError as error:
        process.close()
        raise BundleError(str(error)) from error
    return process


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"the text has {text[error.start]!r} at character {error.start}, which is half of a character; send the whole text"
        ) from None


@contextmanager
def _bundle_errors(what: str) -> Iterator[None]:
    """``BundleError`` for what the tokenizers library raises over a ``tokenizer.json``: bare exceptions, and panics of Rust."""
    try:
        yield
    except (TypeError, OverflowError):  # of the caller's arguments
        raise
    except BaseException as error:
        # pyo3's PanicException is no Exception, and no module has it to be imported from.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BundleError(f"tokenizer.json cannot {what} ({one_line(error)}); compile the model again") from error


def special_tokens_of(config: dict[str, Any]) -> dict[str, str]:
    """Roles to tokens, from entries such as ``"eos_token": "</s>"`` or ``{"content": "</s>", …}``."""
    tokens = {}
    for key, value in config.items():
        if isinstance(value, dict):
            value = value.get("content")
        if key.endswith("_token") and isinstance(value, str):
            tokens[key] = value
    return tokens


def _add_begin_and_end(backend: Any, special: dict[str, str], begin: bool, end: bool) -> None:
    """Put the begin and end tokens around every text: settings that overrule tokenizer.json, as in transformers."""
    from tokenizers.processors import TemplateProcessing

    bos = special.get("bos_token") if begin else None
    eos = special.get("eos_token") if end else None
    ids = {token: backend.token_to_id(token) for token in (bos, eos) if token is not None}
    if missing := [token for token, index in ids.items() if index is None]:
        raise BundleError(f"special token {missing[0]!r} is not in tokenizer.json; compile the model again")
    single = [*([f"{bos}:0"] if bos else []), "$A:0", *([f"{eos}:0"] if eos else [])]
    with _bundle_errors(f"take {bos!r} and {eos!r} as its begin and end"):
        backend.post_processor = TemplateProcessing(single=single, pair=None, special_tokens=list(ids.items()))


def _as_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) for i in ids):
        raise InvalidInputError(f"eos_token_id is {value!r} in generation_config.json; it must be one or more integers")
    return tuple(ids)
