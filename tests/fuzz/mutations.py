"""Mutations of files, of their bytes and of their JSON. All are functions of a seed, and so can be repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import strategies as st


def nested(depth: int) -> Any:
    value: Any = {}
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


VALUES: list[Callable[[], Any]] = [
    *(lambda value=value: value for value in (None, True, False, 0, 1, -1, 2, 7, 100_000, 2**31, 2**63, 2**64, -(2**63))),
    *(lambda value=value: value for value in (10**18, 10**30, 10**400, 0.5, -0.0, 1e-300, 1e308, float("nan"), float("inf"))),
    *(lambda value=value: value for value in ("", ".", "..", "../x", "/etc/passwd", "a/../../b", "a\\b", "a\0b", "\ud800")),
    *(lambda value=value: value for value in ("🚗", "float32", "int4", "bfloat16", "U8", "batch", "NaN", "1", "{{", "{% for")),
    lambda: "x" * 10_000,
    lambda: "9" * 5_000,
    list,
    dict,
    lambda: [[]],
    lambda: [None, 1, "a"],
    lambda: [0] * 2_000,
    lambda: {str(i): i for i in range(300)},
    lambda: {"a": {"b": [1]}},
    lambda: nested(40),
    lambda: nested(150),
    lambda: nested(600),
]  # fmt: skip

PIECES = [
    b'"', b"[", b"]", b"{", b"}", b",", b":", b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"NaN", b"-1", b"1e999", b"null",
    b"9" * 400, b"[" * 2_000, b"\xef\xbb\xbf", b"\n", b"{{", b"}}", b"{%", b"%}", b"|", b"(", b".", b"'", b"~", b"**", b"9999999",
]  # fmt: skip


def mutated_bytes(content: bytes, seed: int, count: int) -> bytes:
    """``content`` with ``count`` flips, insertions, deletions, repetitions, truncations."""
    random, data = Random(seed), bytearray(content)
    for _ in range(count):
        at = random.randrange(len(data) + 1)
        match random.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << random.randrange(8)
            case 1 if at < len(data):
                data[at] = random.randrange(256)
            case 2:
                data[at:at] = random.choice(PIECES)
            case 3:
                del data[at : at + random.randrange(1, 30)]
            case 4:
                data[at:at] = data[at : at + random.randrange(1, 300)]
            case 5:
                other = random.randrange(len(data) + 1)
                data[at:at] = data[other : other + random.randrange(1, 40)]
            case 6 if random.random() < 0.2:
                del data[at:]
    return bytes(data)


def mutated_json(content: bytes, seed: int, count: int) -> bytes:
    """``content``, which is JSON, with ``count`` of its values replaced, deleted, moved or renamed."""
    random, data = Random(seed), {"root": json.loads(content)}
    for _ in range(count):
        place, key = _place(data, random)
        match random.randrange(6):
            case 0 | 1:
                place[key] = random.choice(VALUES)()
            case 2 if place is not data:
                del place[key]
            case 3:
                other, other_key = _place(data, random)
                place[key] = json.loads(json.dumps(other[other_key]))
            case 4 if isinstance(place, dict) and place is not data:
                place[str(random.choice(VALUES)())[:300]] = place.pop(key)
            case 5:
                value = place[key]
                if isinstance(value, int | float) and not isinstance(value, bool):
                    place[key] = random.choice([-value, value + 1, value - 1, value * 2**32, str(value), [value]])
                elif isinstance(value, str):
                    place[key] = random.choice(
                        [value * 2, value[:-1], value + "\0", value.upper(), [value], {value: value}]
                    )
                elif isinstance(value, list):
                    place[key] = random.choice([value * 2, value[:-1], value[::-1], [value], dict(enumerate(value))])
                else:
                    place[key] = [value]
    return json.dumps(data["root"]).encode()


def _place(data: Any, random: Random) -> tuple[Any, Any]:
    """A container in ``data`` and a key or index of it."""
    place, key = data, "root"
    while isinstance(place[key], dict | list) and place[key] and random.random() < 0.85:
        place = place[key]
        key = random.choice(list(place)) if isinstance(place, dict) else random.randrange(len(place))
    return place, key


seeds = st.integers(0, 2**63)
counts = st.integers(0, 6)
#: Arguments of ``mutated``.
mutations = st.tuples(st.sampled_from([mutated_json, mutated_json, mutated_bytes]), seeds, counts)
byte_mutations = st.tuples(st.just(mutated_bytes), seeds, counts)


def mutated(content: bytes, mutation: tuple[Callable[[bytes, int, int], bytes], int, int]) -> bytes:
    how, seed, count = mutation
    return how(content, seed, count)
