"""Tokenizers trained in the test, saved as checkpoints save them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.tiny_checkpoint import TEXT, make_tokenizer


class Folder:
    """A folder that answers as a bundle does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def read_bytes(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


def make_llama_tokenizer():
    """Metaspace, byte fallback and a begin-of-sequence token, as Llama 2's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([line for line in TEXT if line.isascii()], trainer)
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    state["model"]["vocab"] = vocab | {name: len(vocab) + i for i, name in enumerate(bytes_)}
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True
    )


@pytest.fixture(scope="session", params=["byte_level", "llama"])
def saved(request, tmp_path_factory):
    """A transformers tokenizer as loaded from a folder, and that folder."""
    pytest.importorskip("transformers")
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp(request.param)
    (make_tokenizer() if request.param == "byte_level" else make_llama_tokenizer()).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder), Folder(folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The files of a byte-level tokenizer with a chat template."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return folder
