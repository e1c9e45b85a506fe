"""Products with 4-bit and 16-bit weights on a GPU, beside float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tt_edge.errors import EngineError, MissingDependencyError
from tt_edge.plugins.cuda.library import Kernels, load_kernels
from tt_edge.plugins.cuda.tensors import gemv, int4_args, int4_linear, row_product, stream_of
from tt_edge.plugins.edgellm.int4_packing import dequantize, pack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA GPU here"),
]

BOUND = {torch.float16: 1e-3, torch.bfloat16: 6e-3}


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    try:
        return load_kernels()
    except MissingDependencyError as missing:
        pytest.skip(str(missing))


def int4_weight(n: int, k: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Packed weight, scales, and the weight in float64."""
    packed = pack(np.random.default_rng().integers(-8, 8, (n, k), dtype=np.int8))
    scales = (torch.rand(k // 128, n) * 0.1 + 0.01).to(dtype)
    matrix = torch.from_numpy(dequantize(packed, scales.float().numpy())).double()
    return torch.from_numpy(packed).cuda(), scales.cuda(), matrix.cuda()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("m", [1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 100])
@pytest.mark.parametrize(("n", "k"), [(4, 128), (100, 384), (896, 4864), (4096, 1152), (68, 4096)])
def test_int4(kernels: Kernels, n: int, k: int, m: int, dtype: torch.dtype) -> None:
    weight, scales, matrix = int4_weight(n, k, dtype)
    x = torch.randn(m, k, device="cuda").to(dtype)
    expected = x.double() @ matrix.T
    results = [int4_linear(kernels, x, weight, scales)]
    if m <= 64:
        y = torch.full_like(results[0], torch.nan)
        kernels.int4_gemm(int4_args(x, weight, scales, y), stream_of(x))
        results.append(y)
    for y in results:
        assert y.isfinite().all()
        assert float((y.double() - expected).norm() / expected.norm()) < BOUND[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("neighbours", ["none", "bias", "norm", "residual", "gated", "all"])
@pytest.mark.parametrize(
    ("n", "k"), [(1, 8), (100, 384), (1152, 896), (4864, 896), (896, 4864), (33, 2048), (512, 4096), (70, 14336)]
)
def test_row_product(kernels: Kernels, n: int, k: int, neighbours: str, dtype: torch.dtype) -> None:
    """Each alone and all together, beside float64; outputs between guards that must stay."""
    gated, rows = neighbours in ("gated", "all"), n * (2 if neighbours in ("gated", "all") else 1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda").to(dtype)

    x, weight = drawn(k) * 3, drawn(rows, k) * k**-0.5
    bias = drawn(rows) if neighbours in ("bias", "all") else None
    residual = drawn(n) if neighbours in ("residual", "all") else None
    norm = drawn(k) if neighbours in ("norm", "all") else None
    y = row_product(kernels, x, weight, bias, residual, norm, 1e-5, gated)
    wide = x.double()
    if norm is not None:
        wide = wide * (wide.square().mean() + 1e-5).rsqrt() * norm.double()
    expected = weight.double() @ wide
    expected = expected if bias is None else expected + bias.double()
    if gated:
        expected = torch.nn.functional.silu(expected[:n]) * expected[n:]
    expected = expected if residual is None else expected + residual.double()
    assert y.isfinite().all()
    assert float((y.double() - expected).norm() / expected.norm()) < BOUND[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_int4_dequantize(kernels: Kernels, dtype: torch.dtype) -> None:
    weight, scales, matrix = int4_weight(260, 640, dtype)
    y = torch.full((260, 640), torch.nan, dtype=dtype, device="cuda")
    kernels.int4_dequantize(int4_args(y[:1], weight, scales, y), stream_of(y))
    torch.testing.assert_close(y.double(), matrix.to(dtype).double(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("m", [1, 2, 4, 8])
@pytest.mark.parametrize(("n", "k"), [(1, 8), (17, 200), (896, 4864), (4096, 1000), (4100, 2056)])
def test_gemv(kernels: Kernels, n: int, k: int, m: int, dtype: torch.dtype) -> None:
    weight, x = (torch.randn(rows, k, device="cuda").to(dtype) for rows in (n, m))
    expected = x.double() @ weight.double().T
    y = gemv(kernels, x, weight)
    assert y.isfinite().all()
    assert float((y.double() - expected).norm() / expected.norm()) < BOUND[dtype]


def test_wrong_arguments_are_named(kernels: Kernels) -> None:
    weight, scales, _ = int4_weight(64, 128, torch.float16)
    x = torch.randn(65, 128, device="cuda", dtype=torch.float16)
    y = x.new_empty(65, 64)
    with pytest.raises(EngineError, match="m is 65, not 0 to 64"):
        kernels.int4_gemm(int4_args(x, weight, scales, y), stream_of(x))
    args = int4_args(x[:1], weight, scales, y)
    args.group_size = 64
    with pytest.raises(EngineError, match="group_size is 64, not 128"):
        kernels.int4_gemm(args, stream_of(x))
