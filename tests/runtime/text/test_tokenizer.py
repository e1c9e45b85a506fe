from __future__ import annotations

import json
import random

import pytest

from tests.runtime.conftest import Folder
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.text.detokenizer import IncrementalDecoder
from tt_edge.runtime.text.tokenizer import BundleTokenizer

TEXTS = (
    "The light ahead is red.",
    " two  spaces, and\n\ta tab ",
    "grün ✓ 道路 🚗🚦 e\u0301",
    "<|user|>hello<|end|>",
    "<s>begin</s>",
    "",
    "don't . stop , 12345",
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("special", [True, False])
def test_encodes_and_decodes_as_transformers_does(saved, text, special):
    theirs, folder = saved
    ours = BundleTokenizer.from_bundle(folder)
    ids = ours.encode(text, add_special_tokens=special)
    assert ids == theirs(text, add_special_tokens=special).input_ids
    for skip in (True, False):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_begin_token_is_added_where_the_settings_say_so(saved):
    theirs, folder = saved
    ours = BundleTokenizer.from_bundle(folder)
    assert (ours.encode("a")[0] == theirs.bos_token_id) == (theirs.bos_token == "<s>")
    assert ours.special_tokens["eos_token"] == theirs.eos_token
    assert ours.eos_token_ids == (theirs.eos_token_id,)


def edited(folder: Folder, tmp_path, **files) -> Folder:
    for path in folder.path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(content)
    return Folder(tmp_path)


@pytest.mark.parametrize(("eos", "expected"), [(7, (7,)), ([7, 9], (7, 9)), ([], ())])
def test_eos_of_the_generation_config_goes_first(saved, tmp_path, eos, expected):
    folder = edited(saved[1], tmp_path, generation_config=json.dumps({"eos_token_id": eos}))
    assert BundleTokenizer.from_bundle(folder).eos_token_ids == expected


def test_padding_and_truncation_of_the_file_do_not_apply(saved, tmp_path):
    state = json.loads(saved[1].read_bytes("tokenizer.json"))
    state["truncation"] = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    folder = edited(saved[1], tmp_path, tokenizer=json.dumps(state))
    assert len(BundleTokenizer.from_bundle(folder).encode("The light ahead is red")) > 2


def test_unusable_files_are_named(saved, tmp_path):
    with pytest.raises(BundleError, match=r"no tokenizer\.json"):
        BundleTokenizer.from_bundle(Folder(tmp_path))
    for name in ("tokenizer", "tokenizer_config"):
        (tmp_path / name).mkdir()
        with pytest.raises(BundleError, match=f"{name}.json"):
            BundleTokenizer.from_bundle(edited(saved[1], tmp_path / name, **{name: "{"}))
    (tmp_path / "eos").mkdir()
    with pytest.raises(InvalidInputError, match="eos_token_id"):
        BundleTokenizer.from_bundle(edited(saved[1], tmp_path / "eos", generation_config='{"eos_token_id": "x"}'))


def stream(tokenizer: BundleTokenizer, ids: list[int]) -> list[str]:
    decoder = IncrementalDecoder(tokenizer)
    return [*(decoder.push(token) for token in ids), decoder.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_text_is_the_decoded_text(saved, text):
    ours = BundleTokenizer.from_bundle(saved[1])
    ids = ours.encode(text)
    pieces = stream(ours, ids)
    assert "".join(pieces) == ours.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_comes_whole_with_its_last_token(saved):
    ours = BundleTokenizer.from_bundle(saved[1])
    ids = ours.encode("🚗", add_special_tokens=False)
    assert len(ids) >= 4
    pieces = stream(ours, ids)
    assert [piece.strip() for piece in pieces[-2:]] == ["🚗", ""]
    assert "".join(pieces[:-2]).strip() == ""


def test_nothing_is_lost_when_the_stream_ends_inside_a_character(saved):
    ours = BundleTokenizer.from_bundle(saved[1])
    ids = ours.encode("ok 🚗", add_special_tokens=False)[:-1]
    pieces = stream(ours, ids)
    assert "".join(pieces) == ours.decode(ids)
    assert pieces[-1].startswith("\ufffd")


def test_any_tokens_stream_to_their_decoded_text(saved):
    if saved[0].bos_token == "<s>":
        pytest.skip("byte fallback decodes a run of bytes as a whole; see IncrementalDecoder")
    ours = BundleTokenizer.from_bundle(saved[1])
    draw = random.Random(0)
    for _ in range(300):
        # Raw bytes, whole words and special tokens alike.
        ids = [draw.randrange(draw.choice([6, 262, 512])) for _ in range(draw.randrange(1, 40))]
        assert "".join(stream(ours, ids)) == ours.decode(ids)


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(("}, "content": ""}},
    ],
)
def test_what_the_library_panics_over_is_the_bundles_fault(saved, tmp_path, changes):
    state = json.loads(saved[1].read_bytes("tokenizer.json")) | changes
    folder = edited(saved[1], tmp_path, tokenizer=json.dumps(state))
    with pytest.raises(BundleError, match=r"tokenizer.json cannot .*compile the model again"):
        BundleTokenizer.from_bundle(folder).encode("text")


@pytest.mark.parametrize("text", ["Is the light grün? ✓ 道路 🚗🚦", " two  spaces\n\t", "don't . stop"])
def test_bytes_of_tokens_join_to_the_text(saved, text):
    ours = BundleTokenizer.from_bundle(saved[1])
    ids = ours.encode(text, add_special_tokens=False)
    assert b"".join(map(ours.token_bytes, ids)).decode().strip(" ") == text.strip(" ")


def test_bytes_of_half_a_character_and_of_special_tokens(saved):
    ours = BundleTokenizer.from_bundle(saved[1])
    half, *_ = [i for i in ours.encode("é", add_special_tokens=False) if ours.token_bytes(i) == "é".encode()[:1]]
    assert ours.decode([half]) == "\ufffd"
    assert ours.token_bytes(ours.eos_token_ids[0]) == saved[0].eos_token.encode()
    assert ours.token_bytes(10**6) == b""


@pytest.mark.parametrize(
    ("decoder", "piece", "expected"),
    [
        ("WordPiece", "##ing", b"ing"),
        ("WordPiece", "go", b" go"),
        ("Metaspace", "▁go", b" go"),
        ("BPEDecoder", "go</w>", b"go "),
        ("ByteLevel", "ĠgÃ", b" g\xc3"),
        (None, "go", b"go"),
    ],
)
def test_bytes_by_kind_of_decoder(decoder, piece, expected):
    from tokenizers import Tokenizer, decoders, models

    backend = Tokenizer(models.WordLevel({piece: 0, "x": 1}, unk_token="x"))
    if decoder:
        backend.decoder = getattr(decoders, decoder)()
    assert BundleTokenizer(backend, {}, ()).token_bytes(0) == expected


@pytest.mark.parametrize("token", [-1, 2**32, 2**70])
def test_what_is_no_token_id_is_refused(saved, token):
    with pytest.raises(InvalidInputError, match=f"token id {token} is in no vocabulary"):
        BundleTokenizer.from_bundle(saved[1]).decode([1, token])


def test_half_a_surrogate_pair_is_refused(saved):
    for text in ("a\ud83d", "a\ud83d" * 50_000):
        with pytest.raises(InvalidInputError, match=r"has '\\ud83d' at character 1, which is half of a character"):
            BundleTokenizer.from_bundle(saved[1]).encode(text)


def test_long_texts_are_encoded_alike(saved):
    ours, text = BundleTokenizer.from_bundle(saved[1]), "The light is grün. " * 5000
    assert ours.encode(text) == saved[0](text).input_ids
