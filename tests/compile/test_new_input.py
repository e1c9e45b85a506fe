"""A made-up engine input is one entry in the registry: it is exported, profiled, built, given a buffer and fed."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from tests.models.tiny_models import tiny_model
from tt_edge.compile.export.decoder import DecoderCompiler
from tt_edge.config import CompileConfig
from tt_edge.contract import EngineInput, FedBy, IOContract, Symbol, registered
from tt_edge.contract.tensor import ShapeRange
from tt_edge.dtypes import DType
from tt_edge.errors import BundleError, LoweringError
from tt_edge.lowering.base import LoweringPass, add_placeholder, aten, emit, output_values, set_outputs, shape
from tt_edge.network.build import build_engine
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.tensorrt_api import load

#: An input with a dimension of its own, one of whose sizes depends on the phase.
FENCE = EngineInput(
    "fence",
    DType.FLOAT32,
    (Symbol("batch+2", lambda s: (3, 4 if s.generates else 3, s.limits.max_batch + 2)),),
    FedBy.STEP,
    feed=lambda step: np.arange(step.batch + 2) + step.past[0],
)


class AddFence(LoweringPass):
    """Adds the sum of ``fence`` to all logits."""

    name = "add_fence"

    def rewrite(self, module, context):
        graph = module.graph
        logits, *rest = output_values(graph)
        fence = add_placeholder(graph, "fence", [shape(logits)[0]], torch.float32)
        with graph.inserting_before(graph.output_node()):
            total = emit(graph, aten.sum.dim_IntList, fence, [0], True)
            set_outputs(graph, [emit(graph, aten.add.Tensor, logits, total, like=logits), *rest])
        return 1


class FencedDecoder(DecoderCompiler):
    def passes(self):
        *first, last = super().passes()
        return [*first, AddFence(), last]


def compiled(kind=FencedDecoder):
    config = CompileConfig.of(precision="fp32", max_batch=3, max_input_len=16, max_seq_len=32)
    return kind(tiny_model("llama"), config).compile()


def test_one_entry_makes_an_input():
    plain = compiled(DecoderCompiler)
    with registered(FENCE):
        part = compiled()
        contract = part.contract
        assert contract.input("fence").shape == ("batch+2",)
        assert contract.largest["batch+2"] == 5
        context, generation = contract.profiles()
        assert (context["fence"], generation["fence"]) == (ShapeRange((3,), (3,), (5,)), ShapeRange((3,), (4,), (5,)))
        assert IOContract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract
        sessions = [ReferenceSession(p.network, p.contract) for p in (plain, part)]
        for session in sessions:
            session.reset(2)
        past = 0
        for ids in (np.array([[3, 4, 5], [6, 7, 8]]), np.array([[9], [10]])):
            want, got = (session.forward(ids, np.full(2, ids.shape[1])) for session in sessions)
            np.testing.assert_allclose(got, want + sum(range(past, past + 4)), rtol=1e-5, atol=1e-4)
            past += ids.shape[1]
    with pytest.raises(BundleError, match=r"dimension is 'batch\+2'"):
        IOContract.from_dict(contract.to_dict())


def test_a_builder_takes_its_profiles():
    pytest.importorskip("tensorrt_rtx")
    with registered(FENCE):
        part = compiled()
        built = build_engine(load(), part.network, part.contract.profiles(), "sm89", io.BytesIO())
    assert built.bytes > 0


def test_an_input_without_an_entry_is_refused():
    with pytest.raises(
        LoweringError, match=r"an input 'fence' that tt_edge\.contract\.inputs does not list; add it there"
    ):
        compiled()
