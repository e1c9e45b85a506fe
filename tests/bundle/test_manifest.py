"""The manifest's JSON: a round trip, and a refusal of everything else that says what is wrong."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bundle.making import CONFIG, ENGINE, IDENTITY
from tests.models.decoders import compiled
from tests.models.toy_engine import vision_contract
from tt_edge.bundle.manifest import EngineRecord, Evidence, FileRecord, Manifest, Word
from tt_edge.bundle.names import check_name
from tt_edge.errors import BundleError

MANIFEST = Manifest(
    model=IDENTITY,
    config=CONFIG,
    parts={"decoder": compiled()[1]},
    files={"config.json": FileRecord(2, "a" * 64), ENGINE: FileRecord(600, "b" * 64)},
    engines=(EngineRecord(ENGINE, "tensorrt_rtx", "1.6.1.1", "linux_x86_64", "sm89", 600, 1.5),),
    evidence=(Evidence("engine for sm89", "built", "by tensorrt_rtx 1.6.1.1"),),
)
GOOD = json.loads(MANIFEST.to_json())


def parse_with(value, *keys):
    """Parse the good manifest with the entry at ``keys`` set to ``value``."""
    data = copy.deepcopy(GOOD)
    place = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return Manifest.from_json(json.dumps(data).encode())


def test_round_trip():
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert Manifest.from_json(MANIFEST.to_json()).to_json() == MANIFEST.to_json()


def test_files_are_sorted_so_that_equal_manifests_give_equal_bytes():
    assert (
        replace(MANIFEST, files=dict(reversed(MANIFEST.files.items()))).to_json().splitlines()
        == MANIFEST.to_json().splitlines()
    )


def test_unknown_entries_are_ignored():
    assert parse_with("later", "note") == MANIFEST


MALFORMED = [
    (b"", "manifest.json is not valid JSON"),
    (b"\xff\xfe{}", "manifest.json is not valid JSON"),
    (b'{"format_version": 3', "manifest.json is not valid JSON"),
    (b"[" * 100_000, "manifest.json is not valid JSON"),
    (b"[]", "manifest.json is not an object"),
    (b"null", "manifest.json is not an object"),
    (b"{}", "format_version None, not an integer"),
]


@pytest.mark.parametrize(("content", "message"), MALFORMED, ids=[repr(c[:12]) for c, _ in MALFORMED])
def test_what_is_no_manifest(content, message):
    with pytest.raises(BundleError, match=message) as caught:
        Manifest.from_json(content)
    assert str(caught.value).endswith("copy the bundle again")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (4, "has format version 4, this tt-edge reads up to 3; update tt-edge"),
        (1, "version 1, and this tt-edge reads 3; compile it again: tt-edge compile /models/tiny -o OUT"),
        (10**30, "update tt-edge"),
        (0, "format version 0, which never existed; copy the bundle again"),
        (True, "format_version True, not an integer"),
        ("2", "format_version '2', not an integer"),
        (2.0, r"format_version 2\.0, not an integer"),
    ],
)
def test_format_versions(version, message):
    with pytest.raises(BundleError, match=message):
        parse_with(version, "format_version")


@pytest.mark.parametrize(
    ("source", "argument"),
    [("a b; rm -rf", "'a b; rm -rf'"), ("x\ny", "CHECKPOINT"), ("", "CHECKPOINT"), (3, "CHECKPOINT")],
)
def test_the_command_that_renews_an_old_bundle_is_one_line_for_a_shell(source, argument):
    old = {"format_version": 1, "model": {"source": source}}
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(json.dumps(old).encode())
    assert str(caught.value).endswith(f"compile it again: tt-edge compile {argument} -o OUT")


def test_a_part_that_is_not_there():
    assert MANIFEST.part("decoder") is MANIFEST.contract
    with pytest.raises(BundleError, match=r"no part 'vision' \(it has decoder\); compile a vision-language model"):
        MANIFEST.part("vision")


def test_a_newer_format_is_reported_before_anything_else_is_read():
    with pytest.raises(BundleError, match="format version 4"):
        Manifest.from_json(b'{"format_version": 4}')


WRONG = [
    (("files",), [], "lacks its files, config or parts"),
    (("config",), None, "lacks its files, config or parts"),
    (("parts",), "x", "lacks its files, config or parts"),
    (("model",), None, "ModelIdentity is None, not an object"),
    (("model", "parameters"), "many", "ModelIdentity.parameters is 'many', not of type int"),
    (("model", "parameters"), True, "ModelIdentity.parameters is True, not of type int"),
    (("model", "name"), None, "ModelIdentity.name is None, not of type str"),
    (("files", "config.json"), 5, "FileRecord is 5, not an object"),
    (("files", "config.json", "size"), 2.0, r"FileRecord.size is 2\.0, not of type int"),
    (("files", "config.json", "size"), -1, "a file of size -1"),
    (("files", "config.json", "sha256"), "A" * 64, "SHA-256 'AAAA"),
    (("files", "config.json", "sha256"), "a" * 63, "SHA-256 'aaaa"),
    (("engines",), {}, "engines is {}, not a list"),
    (("engines", 0), "x", "EngineRecord is 'x', not an object"),
    (("engines", 0, "build_seconds"), "1", "EngineRecord.build_seconds is '1', not of type float"),
    (("engines", 0, "file"), "engines/other.engine", "engine 'engines/other.engine' is not among its files"),
    (("evidence",), None, "evidence is None, not a list"),
    (("config", "network", "precision"), "fp8", "config is wrong .*precision 'fp8' is unknown"),
    (("config", "limits", "max_batch"), 0, "config is wrong .*max_batch is 0"),
    (("config", "limits", "max_batch"), True, "config is wrong .*max_batch is True"),
    (("config", "network", "full_logits"), "no", "config is wrong .*full_logits is 'no'"),
    (("config", "beams"), 4, "config is wrong .*no field 'beams'"),
    (("parts", "decoder", "limits", "max_batch"), "3", "contract is malformed .*max_batch"),
    (("parts", "decoder", "limits", "max_seq_len"), 1.5, "contract is malformed .*max_seq_len"),
    (("parts", "decoder", "limits", "max_seq_len"), float("inf"), "not valid JSON .*Infinity"),
    (("parts", "decoder", "inputs"), 3, "contract is malformed"),
    (("parts", "decoder", "inputs", 0, "dtype"), "int3", "contract is malformed .*int3"),
    (("parts", "decoder", "inputs", 0, "shape"), ["batch", -1], "contract is malformed .*-1"),
    (("parts", "decoder", "inputs", 0, "shape"), ["batch", "width"], "contract is malformed .*width"),
    (("parts", "decoder", "kv_cache", 0), ["past", "present"], "contract is malformed"),
    (("parts", "decoder", "kv_in_place"), 1, "contract is malformed .*kv_in_place is 1"),
    (("parts", "decoder", "phases"), ["generation"], r"contract is malformed .*phases is \['generation'\]"),
    (
        ("parts", "decoder", "inputs", 0, "shape"),
        ["units"],
        "dimension 'units' of a vision tower, and there is no geom",
    ),
    (("parts", "decoder"), None, "part 'decoder' is None, not an object"),
    (("parts", "../decoder"), {}, r"part '\.\./decoder', which is not a name"),
]


@pytest.mark.parametrize(("keys", "value", "message"), WRONG, ids=[".".join(map(str, k)) for k, _, _ in WRONG])
def test_entries_of_wrong_types_and_values(keys, value, message):
    with pytest.raises(BundleError, match=message) as caught:
        parse_with(value, *keys)
    assert "again" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["model", "config", "parts", "files", "engines", "evidence"])
def test_missing_entries(key):
    data = {name: value for name, value in GOOD.items() if name != key}
    with pytest.raises(BundleError, match="again"):
        Manifest.from_json(json.dumps(data).encode())


def test_an_unknown_word_of_evidence():
    with pytest.raises(BundleError, match=r"evidence word 'believed' is not one of built, .*; update tt-edge"):
        parse_with("believed", "evidence", 0, "word")
    assert [Evidence("c", word, "d").word for word in Word] == list(Word)


PLAIN = ["config.json", "engines/a.engine", "a b", "ü", ".hidden", "..a", "a/..b"]
OUTSIDE = [
    "../x", "..", "a/../../x", "a/..", "/etc/passwd", "//x", "", ".", "./x", "a/./x", "a//x", "a/", "a\\..\\x",
    "C:\\x", "a\0b", "manifest.json", "\ud800", 5, None,
]  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_plain_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_names_that_lead_out_of_the_bundle(name):
    with pytest.raises(BundleError, match="not a path inside the bundle; do not use it") as caught:
        check_name(name)
    assert repr(name) in str(caught.value)


def test_a_path_out_of_the_bundle_is_refused_in_a_manifest():
    with pytest.raises(BundleError, match=r"'\.\./\.\./x', which is not a path inside the bundle"):
        parse_with({"size": 0, "sha256": "0" * 64}, "files", "../../x")


def test_the_limits_of_an_engine_are_never_wider_than_the_contracts():
    tower, decoder, engine = vision_contract(), MANIFEST.parts["decoder"], MANIFEST.engines[0]
    assert engine.limits(tower) == tower.limits
    narrow = replace(engine, max_image_tokens=1).limits(tower)
    assert (narrow.min_image_tokens, narrow.max_image_tokens) == (1, 1)  # at least 2 before
    assert replace(engine, max_image_tokens=10**9, max_input_len=10**9).limits(tower) == tower.limits
    assert replace(engine, max_image_tokens=5, max_input_len=4).limits(decoder) == replace(
        decoder.limits, max_input_len=4
    )
    with pytest.raises(BundleError, match="takes -1 tokens a call; copy the bundle again"):
        replace(engine, max_image_tokens=-1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    """The paths of all entries."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from places(entry, (*path, key))


@given(st.sampled_from(list(places(GOOD))), JSON)
@settings(max_examples=300, deadline=None)
def test_no_value_anywhere_raises_anything_but_the_projects_error(keys, value):
    with suppress(BundleError):
        parse_with(value, *keys)
