"""A lowered graph that updates its caches in place computes what the graph with a new cache does."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from benchmarks.lowered_decode import Agreement, Inputs, Step, lowered, quantized_and_plain
from benchmarks.lowered_shapes import model_of
from tt_edge.config.quantization import QuantConfig

PROMPT = torch.arange(3, 13)[None]


@pytest.mark.parametrize(
    ("quant", "form"),
    [(None, "joined"), (None, "as converted"), (QuantConfig("int4_wo"), "joined")],
    ids=["fp16", "fp16 as converted", "int4"],
)
def test_prefill_and_decode_equal_the_model(quant, form):
    """On the CPU, where the operators are PyTorch's math; on a GPU the benchmark checks the same."""
    model = plain = model_of("tiny", "cpu")
    if quant is not None:
        model, plain = quantized_and_plain(model, quant)
    module = lowered(model, quant)[form]
    counts = Counter(str(node.target) for node in module.graph.nodes if node.op == "call_function")
    assert (counts["tt_edge.attention_plugin_in_place.default"], counts["tt_edge.attention_plugin.default"]) == (2, 0)
    if form == "as converted":
        assert counts["tt_edge.row_product.default"] == 0
    elif quant is None:  # queries, keys and values; output and residual; gate and up; down and residual; the head
        assert counts["tt_edge.row_product.default"] == 2 * 4 + 1
        assert counts["tt_edge.linear.default"] == counts["aten.silu.default"] == counts["aten.add.Tensor"] == 0
    else:
        assert counts["tt_edge.int4_groupwise_gemm.default"] == 2 * 4
    inputs = Inputs.of(module, PROMPT)
    with torch.no_grad():
        first = module(inputs.ids, inputs.positions, inputs.last, inputs.past, inputs.new, *inputs.caches)
        decode = inputs.then(first.argmax(-1).view(1, 1))
        sequence = [*PROMPT[0].tolist(), int(decode.ids)]
        ours = [first]
        step = Step(module)
        for _ in range(3):
            ours.append(step(decode.ids, decode.positions, decode.last, decode.past, decode.new, decode.caches))
            sequence.append(int(decode.ids))
        tokens = torch.tensor([sequence[:-1]])
        theirs = plain(tokens).logits[0, PROMPT.shape[1] - 1 :].float()
        exact = plain.float()(tokens).logits[0, PROMPT.shape[1] - 1 :]
    agreement = Agreement.of(torch.cat(ours), theirs, exact)
    assert agreement.holds, agreement
    assert int(decode.past) == len(sequence) - 1
