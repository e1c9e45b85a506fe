"""Tokenizers of every kind: what a bundle takes gives the token ids that transformers' own tokenizer gives, over odd texts."""

from __future__ import annotations

import builtins
import importlib.util
import io
import json
import logging

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GenerationConfig, GenerationMixin, PreTrainedTokenizerFast

from tests.models.tiny_models import tiny_model
from tests.models.tiny_seq2seq import tiny_seq2seq
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.tokenizer_files import generation_settings, load_tokenizer, tokenizer_files
from tt_edge.compile.odd_texts import ODD_TEXTS
from tt_edge.errors import InvalidInputError, MissingDependencyError
from tt_edge.runtime.seq2seq.prompt import DecoderStart
from tt_edge.runtime.text.tokenizer import BundleTokenizer

CORPUS = [
    *ODD_TEXTS,
    "the light ahead is red and a pedestrian waits",
    "stop because the light is red",
    "two blue cars",
] * 4
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]


class Files(dict):
    def has(self, name):
        return name in self

    def read_bytes(self, name):
        return self[name]


def byte_level():
    found = tokenizers.Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    found.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return found


def word_piece():
    found = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    found.normalizer = normalizers.BertNormalizer(lowercase=True)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    found.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=None, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return found


def sentence_bpe():
    """SentencePiece's BPE as converters write it: metaspace, bytes for what is unknown, BOS in front."""
    found = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    found.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    found.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=pieces))
    data = json.loads(found.to_str())
    data["added_tokens"] = data["added_tokens"][: len(SPECIAL)]  # bytes are pieces, not added tokens
    found = tokenizers.Tokenizer.from_str(json.dumps(data))
    found.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", 1)])
    return found


def unigram():
    found = tokenizers.Tokenizer(models.Unigram())
    found.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>")
    found.train_from_iterator(CORPUS, trainer)
    found.post_processor = processors.TemplateProcessing(single="$A </s>", pair=None, special_tokens=[("</s>", 2)])
    return found


KINDS = {"byte-level BPE": byte_level, "WordPiece": word_piece, "SentencePiece BPE": sentence_bpe, "unigram": unigram}


def written(folder, kind="byte-level BPE", **settings):
    backend = KINDS[kind]()
    roles = (
        {"unk_token": "[UNK]"}
        if kind == "WordPiece"
        else {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    )
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    data = json.loads((folder / "tokenizer_config.json").read_text()) | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(data))
    return folder


def agree(folder, *more):
    """The bundle's tokenizer and transformers' own, from the checkpoint's folder: equal ids and, of these, equal text."""
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = BundleTokenizer.from_bundle(Files(tokenizer_files(Checkpoint.open_tokenizer(folder))))
    for text in (*ODD_TEXTS, *more):
        for special in (True, False):
            ids = theirs(text, add_special_tokens=special)["input_ids"]
            assert ours.encode(text, add_special_tokens=special) == ids, text
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    return ours


@pytest.mark.parametrize("kind", KINDS)
def test_token_ids_are_transformers_own(kind, tmp_path):
    agree(written(tmp_path, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_spaces_that_transformers_cleans_up(kind, tmp_path, caplog):
    """Applied (WordPiece's decoder does it), without effect (BPE), or named: text is streamed, so it is not changed later."""
    folder = written(tmp_path, kind, clean_up_tokenization_spaces=True)
    with caplog.at_level(logging.WARNING, "tt_edge"):
        ours = BundleTokenizer.from_bundle(Files(tokenizer_files(Checkpoint.open_tokenizer(folder))))
    theirs, text = AutoTokenizer.from_pretrained(folder), "stop . red , two cars !"
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    differs = ours.decode(ids) != theirs.decode(ids)
    assert differs == (kind == "unigram")
    assert ("clean_up_tokenization_spaces not applied" in caplog.text) == differs


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_only_the_settings_have(kind, tmp_path):
    """Row 5: one token, where tokenizer.json alone has eleven."""
    size = KINDS[kind]().get_vocab_size()
    token = {"content": "<|im_start|>", "special": True, "normalized": False, "lstrip": False, "rstrip": False}
    written(tmp_path, kind, added_tokens_decoder={str(size): {**token, "single_word": False}})
    ours = agree(tmp_path, "<|im_start|>user", "a<|im_start|> b")
    assert ours.encode("<|im_start|>", add_special_tokens=False) == [size]


def test_the_older_file_of_added_tokens(tmp_path):
    size = byte_level().get_vocab_size()
    written(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|extra|>": size}))
    agree(tmp_path, "<|extra|>", "a <|extra|>b")


@pytest.mark.parametrize("settings", [{"add_bos_token": True}, {"add_eos_token": True}, {"add_bos_token": False}])
def test_settings_for_begin_and_end(settings, tmp_path):
    agree(written(tmp_path, "SentencePiece BPE", **settings))


def test_a_vocabulary_and_merges_without_tokenizer_json(tmp_path):
    """GPT-2's and Qwen2's older form."""
    backend = byte_level()
    backend.model.save(str(tmp_path))
    settings = {"tokenizer_class": "GPT2Tokenizer", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    agree(tmp_path)


def sentencepiece_model(kind, size):
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    model = io.BytesIO()
    trainer.train(sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=size, model_type=kind, minloglevel=2,
                  byte_fallback=kind == "bpe", hard_vocab_limit=False)  # fmt: skip
    return model.getvalue()


@pytest.mark.parametrize(
    ("kind", "name", "owner"), [("bpe", "tokenizer.model", "Llama"), ("unigram", "spiece.model", "T5")]
)
def test_sentencepiece(kind, name, owner, tmp_path):
    (tmp_path / name).write_bytes(sentencepiece_model(kind, 600))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": f"{owner}Tokenizer"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    agree(tmp_path)


def test_tiktoken(tmp_path):
    """Llama 3's tokenizer.model: a line for each token, its bytes in Base64 and its rank."""
    pytest.importorskip("tiktoken")
    import base64

    merges = [b"th", b"the", b" the", b"re", b"red", b" is", b"li", b"ght", b"light", b"\xc3\xa9"]
    tokens = [*(bytes([byte]) for byte in range(256)), *merges]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (tmp_path / "tokenizer.model").write_text("\n".join(lines) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    ours = agree(tmp_path)
    assert len(ours.encode("the light", add_special_tokens=False)) < len("the light")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    """Row 7: a SentencePiece vocabulary cannot be converted without sentencepiece."""
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    find, load = importlib.util.find_spec, builtins.__import__

    def without(name, *args, **kwargs):
        if name == "sentencepiece":
            raise ModuleNotFoundError("No module named 'sentencepiece'", name=name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "sentencepiece" else find(name, *a)
    )
    monkeypatch.setattr(builtins, "__import__", without)
    message = (
        r"is converted with the package sentencepiece, which is not installed; pip install 'tt-edge\[sentencepiece\]'"
    )
    with pytest.raises(MissingDependencyError, match=message) as caught:
        list(tokenizer_files(Checkpoint.open(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_damaged_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(
        InvalidInputError, match=r"the tokenizer of .* does not load \(.*\); give another with --tokenizer"
    ) as e:
        list(tokenizer_files(Checkpoint.open_tokenizer(tmp_path)))
    assert "\n" not in str(e.value)


def test_no_tokenizer_at_all(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert list(tokenizer_files(Checkpoint.open_tokenizer(tmp_path))) == []


class TestGenerationSettings:
    def test_what_is_not_applied_is_named_in_one_line(self, caplog):
        model = tiny_model("llama")
        model.generation_config = GenerationConfig(num_beams=4, suppress_tokens=[3], eos_token_id=2)
        with caplog.at_level(logging.WARNING, "tt_edge"):
            settings = json.loads(generation_settings(model))
        assert settings["suppress_tokens"] == [3]
        assert [record.getMessage() for record in caplog.records] == [
            "generation_config.json: num_beams=4 not applied by tt-edge"
        ]

    def test_nothing_is_said_of_what_is(self, caplog):
        model = tiny_model("llama")
        model.generation_config = GenerationConfig(suppress_tokens=[3], bad_words_ids=[[4, 5]], min_new_tokens=3)
        with caplog.at_level(logging.WARNING, "tt_edge"):
            generation_settings(model)
        assert not caplog.records

    def test_a_value_that_cannot_be(self):
        model = tiny_model("llama")
        model.generation_config.suppress_tokens = [-7]
        with pytest.raises(
            InvalidInputError, match=r"generation_config\.json: suppress_tokens is -7; .*; mend or remove it"
        ):
            generation_settings(model)


def test_a_tokenizer_that_would_end_the_process_is_refused(tmp_path):
    vocabulary = {"a": 0, "b": 1, "ab": 2}
    model = {"type": "BPE", "continuing_subword_prefix": "##", "vocab": vocabulary, "merges": [["a", "b"]]}
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    with pytest.raises(InvalidInputError, match=r'does not load \(the second part of the merge \["a", "b"\] does not'):
        load_tokenizer(Checkpoint.open(tmp_path))


class TestWhereAnAnswerBegins:
    """What ``generate()`` gives an encoder-decoder's decoder first, in every way that a checkpoint can say it."""

    @pytest.mark.parametrize(
        ("settings", "wanted"),
        [
            ({"decoder_start_token_id": 0}, 0),
            ({"decoder_start_token_id": [5]}, 5),
            ({"bos_token_id": 7}, 7),  # the model's configuration says 2, which generate() does not look at
            ({"decoder_start_token_id": 5, "forced_decoder_ids": [[1, 9]]}, 5),
        ],
    )
    def test_as_generate_has_it(self, settings, wanted):
        model = tiny_seq2seq("bart")
        model.generation_config = GenerationConfig(pad_token_id=1, eos_token_id=2, **settings)
        start = DecoderStart.from_settings(json.loads(generation_settings(model)))
        ids = torch.tensor([[4, 5, 2]])
        out = GenerationMixin.generate(model, ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, num_beams=1)
        assert start.default == (wanted,) == tuple(out[0, :1].tolist())

    def test_one_for_each_row_is_refused(self):
        model = tiny_seq2seq("bart")
        model.generation_config = GenerationConfig(decoder_start_token_id=[5, 6])
        with pytest.raises(InvalidInputError, match=r"decoder_start_token_id is \[5, 6\]; give one token id"):
            generation_settings(model)

    def test_only_speech_has_forced_tokens_and_languages(self):
        for family, is_speech in (("whisper", True), ("t5", False)):
            model = tiny_seq2seq(family)
            model.generation_config.forced_decoder_ids, model.generation_config.language = [[1, 9]], "de"
            found = json.loads(generation_settings(model))
            assert ("forced_decoder_ids" in found) == is_speech


def test_transformers_warnings_are_not_shown(tmp_path, monkeypatch):
    """It warns of a model type that it does not have, such as Eagle 2's, while it loads a tokenizer."""
    PreTrainedTokenizerFast(tokenizer_object=byte_level()).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "eagle2"}')
    shown = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: shown.append(record.getMessage()))
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [handler])
    AutoTokenizer.from_pretrained(tmp_path)
    assert "eagle2" in shown.pop()
    load_tokenizer(Checkpoint.open(tmp_path))
    assert shown == []
