"""Tokens to text as they come: whole characters only, and never beyond a stop string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Decoder(Protocol):
    """Turns ids into text: ``BundleTokenizer``."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ``token_ids`` without special tokens."""

    def special_tokens_in(self, strings: Sequence[str]) -> Mapping[int, str]:
        """The special tokens, by id, that one of ``strings`` contains."""


class IncrementalDecoder:
    """Turns the tokens of one request into text as they come.

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


class StopStrings:
    """Passes text on up to the first stop string; holds back what may be the beginning of one."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """The text that is now certain to come before any stop string. ``found`` is then the one met, if any."""
        if self.found is not None:
            return ""
        self._held += text
        places = [(at, s) for s in self._strings if (at := self._held.find(s)) >= 0]
        if places:
            at, self.found = min(places)
            return self._take(at)
        return self._take(len(self._held) - max((_overlap(self._held, s) for s in self._strings), default=0))

    def flush(self) -> str:
        """The text held back, at the end of the stream."""
        return "" if self.found is not None else self._take(len(self._held))

    def _take(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that ``stop`` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Detokenizer:
    """Text of one request's tokens as they come, up to a stop string.

    Text is without special tokens, and stop strings may contain them: ``<|end|>``, or ``.<|end|>``. So special tokens that a
    stop string contains pass through ``StopStrings`` as one code point each, a surrogate, which no decoded text has.
    """

    def __init__(self, decoder: Decoder, stop: Sequence[str] = ()) -> None:
        self._decoder = IncrementalDecoder(decoder)
        special = decoder.special_tokens_in(stop) if stop else {}
        self._marks = {token: chr(0xD800 + number) for number, token in enumerate(special)}
        self._originals: dict[str, str] = {text: text for text in stop}
        for text in stop:
            marked = text
            for token, content in sorted(special.items(), key=lambda item: -len(item[1])):
                marked = marked.replace(content, self._marks[token])
            self._originals.setdefault(marked, text)
        self._stop = StopStrings(tuple(self._originals))

    @property
    def stopped_by(self) -> str | None:
        """The stop string that was met."""
        return None if self._stop.found is None else self._originals[self._stop.found]

    def push(self, token: int) -> str:
        """The text that ``token`` makes certain."""
        if token in self._marks:
            return self._without_marks(self._stop.push(self._decoder.flush() + self._marks[token]))
        return self._without_marks(self._stop.push(self._decoder.push(token)))

    def flush(self) -> str:
        """The rest, after the last token."""
        return self._without_marks(self._stop.push(self._decoder.flush()) + self._stop.flush())

    def _without_marks(self, text: str) -> str:
        for mark in self._marks.values():
            text = text.replace(mark, "")
        return text
