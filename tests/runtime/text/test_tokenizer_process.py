"""Tokenizers that are not known to be bounded: the same ids from a process of their own, and an end to those that take too much."""

from __future__ import annotations

import importlib
import json
import time

import pytest

from tests.runtime.conftest import Folder
from tests.runtime.text.test_tokenizer import TEXTS, edited
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.text import tokenizer_process
from tt_edge.runtime.text.tokenizer import BundleTokenizer
from tt_edge.runtime.text.tokenizer_limits import KNOWN, broken_merge, is_bounded


def with_parts(folder: Folder, tmp_path, **parts) -> Folder:
    state = json.loads(folder.read_bytes("tokenizer.json"))
    return edited(folder, tmp_path, tokenizer=json.dumps(state | parts))


def replaced(pattern: dict, content: str) -> dict:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*normalizers: dict) -> dict:
    return {"type": "Sequence", "normalizers": list(normalizers)}


DOUBLING = sequence(*[replaced({"String": "a"}, "aa")] * 24)


def test_what_real_tokenizers_have_is_bounded(saved):
    assert is_bounded(json.loads(saved[1].read_bytes("tokenizer.json")))
    assert BundleTokenizer.from_bundle(saved[1])._process is None
    spaces = sequence({"type": "Precompiled"}, replaced({"Regex": " {2,}"}, "▁"), {"type": "Prepend", "prepend": "▁"})
    assert is_bounded({"normalizer": spaces, "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]}})
    assert is_bounded({"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}})


@pytest.mark.parametrize("model", ["qwen2", "qwen3_5"])
def test_regular_expressions_of_transformers_are_known(model):
    pytest.importorskip("transformers")
    module = importlib.import_module(f"transformers.models.{model}.tokenization_{model}")
    assert module.PRETOKENIZE_REGEX in KNOWN


@pytest.mark.parametrize("pattern", sorted(KNOWN))
def test_known_regular_expressions_are_linear(pattern):
    """Runs of what each class has, far longer than a quadratic search could take."""
    from tokenizers import Regex, Tokenizer, models, normalizers

    backend = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    backend.normalizer = normalizers.Replace(Regex(pattern), "x")
    start = time.monotonic()
    for run in (" ", "a", "B", "1", "!", "\n", "\r", "中", "\u0301", " a", "a'", " \n", "1a!"):
        backend.encode(run * 100_000)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": DOUBLING},
        {"normalizer": replaced({"String": "a"}, "a" * 65)},
        {"normalizer": replaced({"String": ""}, "a")},
        {"normalizer": replaced({"Regex": "(a+)+$"}, "")},
        {"normalizer": sequence(sequence(*[{"type": "NFKD"}] * 2))},
        {"normalizer": {"type": "Unheard"}},
        {"normalizer": ["NFC"]},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a|a)*"}, "behavior": "Isolated", "invert": False}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 4}},
        {"decoder": {"type": "Sequence", "decoders": [replaced({"String": "a"}, "aa")] * 7}},
        {"model": {"type": "WordPiece", "max_input_chars_per_word": 10**9}},
    ],
)
def test_what_may_take_any_time_is_not(parts):
    assert not is_bounded(parts)


def test_the_same_ids_and_texts_from_the_process(saved, tmp_path, monkeypatch):
    here = BundleTokenizer.from_bundle(saved[1])
    monkeypatch.setattr("tt_edge.runtime.text.tokenizer.is_bounded", lambda state: False)
    there = BundleTokenizer.from_bundle(saved[1])
    assert there._process is not None
    for text in TEXTS:
        for special in (True, False):
            ids = there.encode(text, add_special_tokens=special)
            assert ids == here.encode(text, add_special_tokens=special)
            assert there.decode(ids, skip_special_tokens=special) == here.decode(ids, skip_special_tokens=special)
    assert there.special_tokens_in([saved[0].eos_token]) == here.special_tokens_in([saved[0].eos_token])
    there.close()
    assert there.encode("a") == here.encode("a")  # a new process
    there.close()


def test_a_normalizer_that_doubles_is_refused_at_once(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_process, "MAX_SECONDS", 1.0)
    start = time.monotonic()
    with pytest.raises(BundleError, match=r"takes more than 1 s or 2 GiB for a text of 1 characters; shorten the text"):
        BundleTokenizer.from_bundle(with_parts(saved[1], tmp_path, normalizer=DOUBLING))
    assert time.monotonic() - start < 5


def test_a_text_that_takes_too_long_ends_and_the_next_is_encoded(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_process, "MAX_SECONDS", 1.0)
    slow = replaced(
        {"Regex": "[ab]{1,200}[ab]{1,200}[ab]{1,200}c"}, ""
    )  # just within the library's own limit at each place
    tokenizer = BundleTokenizer.from_bundle(with_parts(saved[1], tmp_path, normalizer=slow))
    start = time.monotonic()
    with pytest.raises((InvalidInputError, BundleError), match=r"tokenizer.* a text of 40001 characters"):
        tokenizer.encode("ab" * 20_000 + "d")
    assert time.monotonic() - start < 5
    assert tokenizer.encode("The light") == BundleTokenizer.from_bundle(saved[1]).encode("The light")
    tokenizer.close()


@pytest.mark.parametrize("prefix", [".", "##########", "é" * 200])
def test_a_prefix_that_merges_lack_is_refused_where_the_library_would_abort(saved, tmp_path, prefix):
    state = json.loads(saved[1].read_bytes("tokenizer.json"))
    model = state["model"] | {"vocab": {"a": 0, "é": 1, "aé": 2}, "merges": [["a", "é"]], "byte_fallback": False}
    folder = with_parts(saved[1], tmp_path, model=model | {"continuing_subword_prefix": prefix})
    with pytest.raises(
        BundleError, match=r'the merge \["a", .*, whose second part does not have its continuing_subword_prefix'
    ):
        BundleTokenizer.from_bundle(folder)


def test_a_prefix_that_merges_have_is_taken():
    model = {"type": "BPE", "continuing_subword_prefix": "##", "merges": ["a ##b", ["c", "##é"]]}
    assert broken_merge({"model": model}) is None
    assert broken_merge({"model": {**model, "continuing_subword_prefix": None, "merges": [["a", ""]]}}) is None
