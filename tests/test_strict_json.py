from __future__ import annotations

import json

import pytest

from tt_edge import strict_json


@pytest.mark.parametrize("value", [None, 1, -2.5, "grün 🚗", [], {}, {"a": [1, {"b": None}]}, [[]] * 3])
def test_reads_what_json_reads(value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert strict_json.loads(text) == value
        assert strict_json.loads(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "key 'a' twice"),
        ('[{"x": {"a": 1, "a": 2}}]', "key 'a' twice"),
        ("[NaN]", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("[1e999]", "beyond a double"),
        (f"[1{'0' * 309}]", "beyond a double"),
        ('["\\ud83d"]', "surrogate"),
        ('{"\\uDE97": 1}', "surrogate"),
        (b'["\xed\xa0\x80"]', "decode"),
        (b"\xff\xfe[\x00]\x00", "decode"),
        ("[" * 101 + "]" * 101, "deeper than 100"),
        ('{"a":' * 101 + "1" + "}" * 101, "deeper than 100"),
        ("[" * 1_000_000, "deeper than 100|Expecting"),
        ("1" * 5000, "beyond a double"),
        ("", "Expecting value"),
        ("{} {}", "Extra data"),
    ],
)
def test_refuses_in_one_line(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        strict_json.loads(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_deepest_allowed():
    assert strict_json.loads("[" * 100 + "]" * 100)


def test_duplicate_among_many_keys_is_found_fast():
    text = "{" + ",".join(f'"{i}":0' for i in [*range(20_000), 19_999]) + "}"
    with pytest.raises(ValueError, match="'19999' twice"):
        strict_json.loads(text)
