"""Parsing untrusted JSON: refuses content that parsers interpret differently or that exhausts them. Torch-free."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

#: Maximum nesting of arrays and objects; files by tt-edge and Hugging Face have fewer than ten levels.
MAX_DEPTH = 100
#: Most values. One of 3 bytes, ``[],``, takes 64 bytes of memory and more, so the size of a text does not bound its cost.
MAX_VALUES = 2_000_000

#: Integers of so many characters are all within the range of a double.
_SHORT = 300
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def loads(content: bytes | str, max_values: int = MAX_VALUES) -> Any:
    """Like ``json.loads``, but refuses ambiguous or invalid content.

    Raises ``ValueError``, with a one-line reason, for text that is not JSON in UTF-8, for duplicate keys in an object, for
    ``NaN``, ``Infinity`` and numbers beyond the range of a double, for a lone surrogate (which is not text and cannot be
    printed), for nesting deeper than ``MAX_DEPTH``, and for more than ``max_values`` values. It never raises
    ``RecursionError``.
    """
    _check_count(content, max_values)
    text = content if isinstance(content, str) else content.decode("utf-8-sig")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite, parse_int=_integer
        )
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    _check_depth(value)
    if _SURROGATE.search(text):  # usually half of a complete pair
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it has half of a surrogate pair") from None
    return value


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file that another tool wrote; empty where there is no such file.

    Python's own reading of a repeated key and of ``NaN`` is kept, since published checkpoints have such files; nesting and
    the number of values are limited as in ``loads``. Raises ``ValueError``, with a reason of one line, for anything else.
    """
    if not file.is_file():
        return {}
    content = file.read_bytes()
    _check_count(content, MAX_VALUES)
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not an object")
    _check_depth(value)
    return value


def _check_count(content: bytes | str, most: int) -> None:
    """Bound the number of values before parsing, by counting commas and brackets: each value except the first follows one.
    (Strings may contain some, too.)"""
    if isinstance(content, str):
        marks = sum(content.count(mark) for mark in ",[{")
    else:
        marks = sum(content.count(mark) for mark in (b",", b"[", b"{"))
    if marks > most:
        raise ValueError(f"it has more than {most:,} values")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has the key {twice[:80]!r} twice in one object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it has {constant}, which is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it has the number {text[:80]}, which is beyond a double")
    return value


def _integer(text: str) -> int:
    """An integer that ``float`` and ``math.isfinite`` take."""
    if len(text) > _SHORT:
        _finite(text)
    return int(text)


def _check_depth(value: Any) -> None:
    """Check the nesting level by level, without recursion; each level is one comprehension over its containers."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            child
            for item in level
            for child in (item.values() if type(item) is dict else item)
            if type(child) is list or type(child) is dict
        ]
    if level:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
