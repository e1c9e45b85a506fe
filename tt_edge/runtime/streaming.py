"""Text out of a stream of tokens, never half a character at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Decoder(Protocol):
    """What turns ids into text: ``BundleTokenizer``."""

    def decode(self, token_ids: Sequence[int]) -> str: ...


class StreamDecoder:
    """Turns one row's tokens into text as they come.

    A token may end inside a character, and a tokenizer may treat the first token of a text differently (Llama's drops
    its leading space). So new text is what decoding a window of tokens adds to decoding all but the new ones, and it
    is held back while it ends in U+FFFD, the mark of an unfinished character. The pieces, ``flush()`` included, join
    to ``decode(all tokens)`` for byte-level tokenizers, whatever the tokens; for byte-fallback ones, when the
    bytes are valid UTF-8 (text that was handed out is not taken back).
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._window: list[int] = []  # tokens whose text is out (`_done` of them), then tokens whose text is held back
        self._done = 0
        self._shown = ""  # the text of window[:done]

    def push(self, token: int) -> str:
        """The text that ``token`` completes, often ``""`` inside a multi-token character."""
        self._window.append(token)
        text = self._decoder.decode(self._window)
        if len(text) <= len(self._shown) or text.endswith("\ufffd"):
            return ""
        return self._take(text)

    def flush(self) -> str:
        """The text held back at the end of the stream, with U+FFFD for what stayed unfinished."""
        return self._take(self._decoder.decode(self._window)) if self._done < len(self._window) else ""

    def _take(self, text: str) -> str:
        new = text[len(self._shown) :]
        self._window = self._window[self._done :]
        self._done = len(self._window)
        self._shown = self._decoder.decode(self._window)
        return new
