"""Modules that compute attention by themselves are known in every type: both forms are compared in fp32."""

from __future__ import annotations

import pytest
import torch

from benchmarks.coverage_seq2seq import _tiny
from tests.models.tiny_seq2seq import tiny_page_reader
from tt_edge.compile.export.semantics import semantic_attention
from tt_edge.compile.seq2seq.captioner import as_encoder_decoder
from tt_edge.compile.seq2seq.own_attention import emitted_attention

#: Number of modules that are replaced: two layers of an encoder, and twice two of a decoder.
MODELS = {
    "fsmt": 6,
    "led": 6,
    "bigbird_pegasus": 2,
    "t5gemma2": 2,
    "speecht5": 6,
    "mvp": 6,
    "trocr": 4,
    "blip": 4,
    "bart": 0,
}


@pytest.mark.parametrize("name", MODELS)
def test_known_in_half_precision(name):
    model = tiny_page_reader("trocr") if name == "trocr" else as_encoder_decoder(_tiny(name))
    model.half()
    if name == "bigbird_pegasus":
        model.get_encoder().set_attention_type("original_full")
    with semantic_attention(model), emitted_attention(model):
        replaced = [module for module in model.modules() if "forward" in vars(module)]
    assert len(replaced) == MODELS[name]
    assert not [module for module in model.modules() if "forward" in vars(module)]


def test_one_that_computes_otherwise_stays():
    model = _tiny("fsmt")
    for module in model.modules():
        if hasattr(module, "scaling"):
            module.forward = lambda query, key, **_: (query, None)
    with semantic_attention(model), emitted_attention(model):
        out, _ = model.get_encoder().layers[0].self_attn(query := torch.randn(5, 2, 32), query)
    torch.testing.assert_close(out, query)
