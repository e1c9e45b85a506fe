"""Both parts of three families are built for SM89, and are the same in the form of older releases."""

from __future__ import annotations

import io

import numpy as np
import pytest

from tests.compile.seq2seq.seq2seqs import compiled, texts
from tests.models.tiny_seq2seq import tiny_seq2seq
from tt_edge import tensorrt_api
from tt_edge.network.build import build_engine
from tt_edge.network.legalize.form import REPLACEABLE
from tt_edge.network.legalize.legalize import legalize
from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward
from tt_edge.tensorrt_features import FEATURES


@pytest.mark.parametrize("family", ["t5", "bart", "whisper"])
def test_built(family):
    tensorrt = tensorrt_api.load()
    for part in compiled(tiny_seq2seq(family)):
        built = build_engine(tensorrt, part.network, part.contract.profiles(), "sm89", io.BytesIO())
        assert built.bytes


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_in_older_form(family):
    """Without TensorRT 11's key lengths, and without its attention layer."""
    encoder, _ = compiled(tiny_seq2seq(family))
    ids, lengths = np.concatenate([texts(20)[0], texts(20)[0][::-1]]).reshape(2, 20), np.array([20, 13], np.int32)
    feeds = {"source_ids": ids, "source_lengths": lengths}
    wanted = ReferenceFeedForward(encoder.network, encoder.contract).run(feeds)
    wanted = {name: array.copy() for name, array in wanted.items()}
    older = legalize(encoder.network, set(FEATURES) - set(REPLACEABLE))
    assert not any(layer.kind == "ATTENTION" for layer in older.network.layers)
    got = ReferenceFeedForward(older.network, encoder.contract).run(feeds)
    for name, array in wanted.items():
        for row, length in enumerate(lengths):
            np.testing.assert_allclose(got[name][row, :, :length], array[row, :, :length], rtol=1e-4, atol=1e-4)
