"""JSON from files that nobody vouches for: what parsers read differently, or choke on, is refused. Torch-free."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

#: Deepest nesting of arrays and objects; what tt-edge and Hugging Face write has fewer than ten levels.
MAX_DEPTH = 100
#: Most values. One of 3 bytes, ``[],``, takes 64 bytes of memory and more, so the size of a text does not bound its cost.
MAX_VALUES = 2_000_000

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def loads(content: bytes | str, max_values: int = MAX_VALUES) -> Any:
    """``json.loads`` that refuses what has no one meaning, or none at all.

    Raises ``ValueError``, with a reason of one line, for text that is not JSON in UTF-8, for a key that an object has
    twice, for ``NaN``, ``Infinity`` and numbers beyond a double, for half of a surrogate pair (which is no text and
    cannot be printed), for nesting deeper than ``MAX_DEPTH``, and for more than ``max_values`` values. It never raises
    ``RecursionError``.
    """
    _check_count(content, max_values)
    text = content if isinstance(content, str) else content.decode("utf-8-sig")
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    _check_depth(value)
    if _SURROGATE.search(text):  # of a whole pair, mostly
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
    """Before anything is parsed: each value but the first has a comma or a bracket before it. (Strings may have some too.)"""
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


def _check_depth(value: Any) -> None:
    """Level by level, so that it costs no stack; each level is one comprehension over those containers alone."""
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
