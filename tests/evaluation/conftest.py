"""A tiny checkpoint whose tokenizer has a token for each letter of a choice, and its bundle."""

from __future__ import annotations

import pytest
import torch

from examples.tiny_checkpoint import make_tokenizer
from tt_edge.cli import main

CAPACITY = 640


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f" {letter}" for letter in "ABCD"])
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id, **sizes,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bundle(checkpoint, tmp_path_factory):
    """In fp32, with the logits of every token."""
    out = tmp_path_factory.mktemp("bundle") / "tiny.ttedge"
    limits = ["--max-batch", "4", "--max-input-len", "64", "--max-seq-len", str(CAPACITY)]
    options = ["--precision", "fp32", "--full-logits", *limits, "--json"]
    assert main(["compile", str(checkpoint), "-o", str(out), *options]) == 0
    return out
