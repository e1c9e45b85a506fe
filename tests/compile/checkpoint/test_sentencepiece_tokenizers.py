"""Marian's and M2M-100's tokenizers as a tokenizer.json: the ids and texts of transformers' own, or a refusal."""

from __future__ import annotations

import json

import pytest
from transformers import M2M100Tokenizer, MarianTokenizer

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.tokenizer_files import tokenizer_files
from tt_edge.compile.files import HostFiles
from tt_edge.compile.odd_texts import ODD_TEXTS
from tt_edge.compile.quantize.builtin_text import PASSAGES
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.text.tokenizer import BundleTokenizer

sentencepiece = pytest.importorskip("sentencepiece")
#: Other texts than those that the conversion is proven with.
TEXTS = ["Two blue cars  wait.", "Zwölf Boxkämpfer", " x\ty ", "≠ unknown ☃☃ signs", "a</s> b", "<pad>tail", *ODD_TEXTS]


def pieces(folder, name: str, kind: str, texts=PASSAGES, size: int = 300) -> list[str]:
    """Train a model; its pieces."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.splitlines()]),
        model_prefix=str(folder / name), vocab_size=size, model_type=kind, minloglevel=2, hard_vocab_limit=False,
        character_coverage=0.99,
    )  # fmt: skip
    (folder / f"{name}.model").rename(folder / name)
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
    return [model.id_to_piece(i) for i in range(model.get_piece_size())]


def marian(folder):
    """Source and target have models of their own, and one vocabulary in an order of its own."""
    found = [*pieces(folder, "source.spm", "unigram"), *pieces(folder, "target.spm", "unigram", PASSAGES[::-2], 150)]
    words = sorted({*found} - {"<unk>", "<s>", "</s>"}, key=lambda piece: piece[::-1])
    vocabulary = {token: i for i, token in enumerate(["</s>", "<unk>", ">>de<<", ">>fr<<", *words, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    MarianTokenizer(
        str(folder / "source.spm"),
        str(folder / "target.spm"),
        str(folder / "vocab.json"),
        source_lang="en",
        target_lang="de",
    ).save_pretrained(folder)
    return MarianTokenizer.from_pretrained(folder)


def m2m_100(folder, size: int = 300):
    words = pieces(folder, "sentencepiece.bpe.model", "bpe", size=size)[3:]
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *sorted(words)])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    M2M100Tokenizer(
        str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"), src_lang="de", tgt_lang="en"
    ).save_pretrained(folder)
    return M2M100Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize("make", [marian, m2m_100])
def test_ids_and_texts_are_transformers(make, tmp_path):
    theirs = make(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "marian" if make is marian else "m2m_100"}))
    files = HostFiles(tokenizer_files(Checkpoint.open_tokenizer(str(tmp_path))))
    ours = BundleTokenizer.from_bundle(files)
    texts = [*TEXTS, ">>fr<< Two cars"] if make is marian else TEXTS
    for text in texts:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == ids, text
        assert ours.decode(ids).strip() == theirs.decode(ids, skip_special_tokens=True).strip()
    assert len({tuple(ours.encode(text)) for text in texts}) > len(texts) - 4


def test_what_cannot_be_equal_is_refused(tmp_path):
    marian(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "marian"}))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    vocabulary["▁lost"] = vocabulary.pop("▁the")
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(
        InvalidInputError, match=r"none that is equal can be made .* vocab\.json lacks its piece '▁the'; give"
    ):
        dict(tokenizer_files(Checkpoint.open_tokenizer(str(tmp_path))))
