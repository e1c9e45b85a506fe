"""The bytes that one token stands for in the middle of a text, which decoding it alone does not tell. Torch-free."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """``TokenBytes(backend)(id)``: the bytes of a token. Those of a text's tokens join to the text, but for what a tokenizer
    does at a text's beginning and to spaces (SentencePiece's first space, WordPiece's clean-up)."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._added = {index: token.content for index, token in backend.get_added_tokens_decoder().items()}
        state = {} if backend.decoder is None else json.loads(backend.decoder.__getstate__())
        self._steps = [_STEPS[each["type"]](each) for each in _flat(state) if each.get("type") in _STEPS]

    def __call__(self, token: int) -> bytes:
        """``b""`` for an id beyond the vocabulary."""
        if token in self._added:
            return str(self._added[token]).encode()
        piece = self._backend.id_to_token(token)
        value: str | bytes = "" if piece is None else piece
        for step in self._steps:
            if isinstance(value, str):
                value = step(value)
        return value.encode() if isinstance(value, str) else value


_Step = Callable[[str], "str | bytes"]


def _flat(state: dict[str, Any]) -> list[dict[str, Any]]:
    """A decoder, or those of a sequence, as ``tokenizer.json`` has them."""
    return (
        [one for each in state.get("decoders", []) for one in _flat(each)]
        if state.get("type") == "Sequence"
        else [state]
    )


def _byte_level(_: dict[str, Any]) -> _Step:
    table = _bytes_by_character()
    return lambda piece: bytes(table[c] for c in piece) if all(c in table for c in piece) else piece


def _byte_fallback(_: dict[str, Any]) -> _Step:
    return lambda piece: bytes([int(match[1], 16)]) if (match := _BYTE.fullmatch(piece)) else piece


def _replace(state: dict[str, Any]) -> _Step:
    pattern, content = state["pattern"].get("String"), state["content"]
    return lambda piece: piece if pattern is None else piece.replace(pattern, content)


def _metaspace(state: dict[str, Any]) -> _Step:
    return lambda piece: piece.replace(state["replacement"], " ")


def _word_piece(state: dict[str, Any]) -> _Step:
    prefix = state["prefix"]
    return lambda piece: piece.removeprefix(prefix) if piece.startswith(prefix) else f" {piece}"


def _bpe(state: dict[str, Any]) -> _Step:
    return lambda piece: piece.replace(state["suffix"], " ")


_STEPS: dict[str, Callable[[dict[str, Any]], _Step]] = {
    "ByteLevel": _byte_level,
    "ByteFallback": _byte_fallback,
    "Replace": _replace,
    "Metaspace": _metaspace,
    "WordPiece": _word_piece,
    "BPEDecoder": _bpe,
}


@cache
def _bytes_by_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: Latin-1's printable characters for themselves, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(rest)}
