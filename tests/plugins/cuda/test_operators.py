"""The plugins' operators on a GPU: with the kernels they compute what PyTorch's math does on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tt_edge.plugins.ops.attention_plugin
import tt_edge.plugins.ops.int4_gemm_plugin  # noqa: F401  (both define operators)
from tt_edge.plugins.edgellm.contracts import GENERATIONS
from tt_edge.plugins.edgellm.int4_packing import pack
from tt_edge.plugins.ops.kernels import attention_kernels, kernels_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA GPU here"),
]

HQ, HKV, D, CAPACITY, BATCH = 4, 2, 64, 96, 3
BOUND = {torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    if kernels_for(torch.zeros(1, dtype=torch.float16, device="cuda")) is None:
        pytest.skip("no kernels; run `tt-edge plugin build`")


def operands(version: str, width: int, past: list[int], dtype: torch.dtype) -> list[torch.Tensor]:
    """Inputs of one call, on the CPU; rubbish where nothing has been written."""

    def ints(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    angles = torch.rand(1, CAPACITY, D // 2) * 6
    q, k, v = (torch.randn(BATCH, width, heads * D).to(dtype) for heads in (HQ, HKV, HKV))
    decode = width == 1 and any(past)
    named = {
        "q": q,
        "k": k,
        "v": v,
        "qkv": torch.cat([q, k, v], -1),
        "past_key_values": torch.randn(BATCH, 2, HKV, CAPACITY, D).to(dtype),
        "context_lengths": ints([p + 1 for p in past] if decode else [width] * BATCH),
        "kvcache_start_index": ints(past if any(past) else []),
        "past_lengths": ints(past),
        "query_lengths": ints([width] * BATCH),
        "rope_rotary_cos_sin": torch.cat([angles.cos(), angles.sin()], -1),
    }
    return [named[name] for name in GENERATIONS[version].input_names]


def error(ours: torch.Tensor, expected: torch.Tensor) -> float:
    expected = expected.double()
    return float((ours.cpu().double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize(("width", "past"), [(20, [0, 0, 0]), (7, [5, 60, 0]), (1, [5, 90, 33])])
@pytest.mark.parametrize("version", ["0.4", "0.9.1", "tt-edge"])
def test_attention(version: str, width: int, past: list[int], dtype: torch.dtype) -> None:
    contract = GENERATIONS[version]
    settings = (version, HQ, HKV, D, 0.125, 30, None, 20.0 if contract.has_softcap else 0.0)
    inputs = operands(version, width, past, dtype)
    if contract.sinks is not None:
        inputs.append(torch.randn(HQ))
    wide = [x.float() if x.dtype == dtype else x for x in inputs]
    expected, cache = torch.ops.tt_edge.attention_plugin(wide, *settings)
    on_gpu = [x.cuda() for x in inputs]
    named = dict(zip(contract.input_names, on_gpu, strict=False))
    assert attention_kernels(contract, named, D) is not None
    out, present = torch.ops.tt_edge.attention_plugin(on_gpu, *settings)
    assert error(out, expected) < BOUND[dtype]
    assert error(present, cache) < BOUND[dtype]
    place = contract.input_names.index("past_key_values")
    assert torch.equal(on_gpu[place].cpu(), inputs[place])  # as it was
    rest = [*on_gpu[:place], *on_gpu[place + 1 :]]
    again = torch.ops.tt_edge.attention_plugin_in_place(rest, on_gpu[place], *settings)
    assert torch.equal(again, out)
    assert torch.equal(on_gpu[place], present)


@pytest.mark.parametrize("rows", [1, 33, 200])
def test_int4(rows: int) -> None:
    weight = torch.from_numpy(pack(np.random.default_rng().integers(-8, 8, (260, 384), dtype=np.int8)))
    scales, x = torch.rand(3, 260).half(), torch.randn(1, rows, 384).half()
    expected = torch.ops.tt_edge.int4_groupwise_gemm(x.float(), weight, scales.float(), "tt-edge")
    ours = torch.ops.tt_edge.int4_groupwise_gemm(x.cuda(), weight.cuda(), scales.cuda(), "tt-edge")
    assert error(ours, expected) < 1e-3
