"""Which tokenizers are known to take little time and memory for any text. Torch-free.

A ``tokenizer.json`` comes with a checkpoint, and nobody vouches for it. Its normalizers can make a text a million times as long,
and its regular expressions can take years. So a tokenizer that consists of what is bounded, with regular expressions that are
known, is used in this process; every other one in a process of its own, with limits (``tokenizer_process.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

#: The most characters that the normalizers may make of one, to count as bounded: NFKC can make 18 of one.
MAX_GROWTH = 64

_CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d"
_CASELESS = f"(?i:{_CONTRACTIONS})"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_OF_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_OF_MARKS = r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
#: Regular expressions that match at every position, or look at one character: linear in the text.
KNOWN = frozenset(
    [
        rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",  # GPT-2
        rf"{_CASELESS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",  # GPT-4, Llama 3
        rf"{_CASELESS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}",  # Qwen2
        rf"{_CASELESS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}|{_REST_OF_MARKS}",  # Qwen3.5
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CASELESS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CASELESS}?|"
        rf"\p{{N}}{{1,3}}|{_REST_OF_PATHS}",  # GPT-4o
        rf"{_CONTRACTIONS}|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+",  # CLIP
        r" {2,}",
        r"\s+",
        r"\n",
        r"[\n\r\t]",
        r"\s{2,}|[\n\r\t]",
        r"\d",
        r"[0-9]",
        r"\p{N}",
        r"\p{N}{1,3}",
    ]
)
#: The longest word, in characters, that a WordPiece model may split.
MAX_WORD = 10_000

_SEQUENCES = ("normalizers", "pretokenizers", "decoders")
#: The most characters that a part makes of one (Unicode 15; BERT's puts spaces around a character, bytes are up to 4). Others
#: are not known.
_GROWTH = {
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Precompiled": 18,
    "Lowercase": 3,
    "StripAccents": 1,
    "Strip": 1,
    "Nmt": 1,
    "Prepend": 1,
    "BertNormalizer": 12,
    "ByteLevel": 4,
    # Pre-tokenizers and decoders
    **dict.fromkeys(("BertPreTokenizer", "CharDelimiterSplit", "Digits", "Punctuation", "Split", "UnicodeScripts"), 1),
    **dict.fromkeys(("Whitespace", "WhitespaceSplit", "ByteFallback", "Fuse"), 1),
    **dict.fromkeys(("Metaspace", "WordPiece", "BPEDecoder", "CTC"), 2),
}


def is_bounded(tokenizer: dict[str, Any]) -> bool:
    """Whether a ``tokenizer.json`` takes time and memory in proportion to the text, with a small factor."""
    parts = {name: tokenizer.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")}
    if any(pattern not in KNOWN for part in parts.values() for pattern in _patterns(part)):
        return False
    model = tokenizer.get("model")
    word = model.get("max_input_chars_per_word", 0) if isinstance(model, dict) else 0
    fits = isinstance(word, int) and word <= MAX_WORD  # WordPiece takes the square of it
    before, after = _growth(parts["normalizer"]) * _growth(parts["pre_tokenizer"]), _growth(parts["decoder"])
    return fits and before <= MAX_GROWTH and after <= MAX_GROWTH


def broken_merge(tokenizer: Mapping[str, Any]) -> str | None:
    """The first merge of a BPE model that ends the whole process when the tokenizers library reads it, if there is one.

    The library cuts as many bytes off a merge's second part as ``continuing_subword_prefix`` has characters. It panics where the
    part is shorter, or where the cut is inside a character, and the panic becomes an abort (tokenizers 0.23.2).
    """
    model = tokenizer.get("model")
    prefix = model.get("continuing_subword_prefix") if isinstance(model, dict) else None
    merges = model.get("merges") if isinstance(model, dict) else None
    if not isinstance(prefix, str) or not prefix or not isinstance(merges, list):
        return None
    for merge in merges:
        second = (
            merge.partition(" ")[2]
            if isinstance(merge, str)
            else merge[-1]
            if isinstance(merge, list) and merge
            else ""
        )
        if isinstance(second, str) and not _has_boundary(second.encode("utf-8", "replace"), len(prefix)):
            return json.dumps(merge)
    return None


def _has_boundary(text: bytes, at: int) -> bool:
    """Whether a character of UTF-8 ``text`` begins at byte ``at``, or the text ends there."""
    return at == len(text) or (at < len(text) and text[at] & 0xC0 != 0x80)


def _patterns(part: Any) -> Iterator[str]:
    """All regular expressions in ``part``, however deep."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "Regex":
                yield value if isinstance(value, str) else json.dumps(value)
            else:
                yield from _patterns(value)
    elif isinstance(part, list):
        for item in part:
            yield from _patterns(item)


def _growth(part: Any) -> int:
    """The most characters that a normalizer, pre-tokenizer or decoder makes of one; beyond ``MAX_GROWTH``, no matter how many."""
    if part is None:
        return 1
    if not isinstance(part, dict):
        return MAX_GROWTH + 1
    kind = str(part.get("type"))
    if kind == "Sequence":
        factor = 1
        for each in next((part[name] for name in _SEQUENCES if isinstance(part.get(name), list)), ()):
            factor *= _growth(each)
            if factor > MAX_GROWTH:
                break
        return factor
    if kind == "Replace":
        content, pattern = part.get("content"), part.get("pattern")
        is_empty = isinstance(pattern, dict) and pattern.get("String") == ""
        return max(1, len(content)) if isinstance(content, str) and not is_empty else MAX_GROWTH + 1
    return _GROWTH.get(kind, MAX_GROWTH + 1)
