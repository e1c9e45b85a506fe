"""The kernels on PyTorch's CUDA tensors, on PyTorch's current stream. For operators, tests and benchmarks on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tt_edge.errors import InvalidInputError
from tt_edge.plugins.cuda.library import AttentionArgs, Int4Args, Kernels, KernelType, RowArgs

_TYPES = {
    torch.float16: KernelType.FLOAT16,
    torch.bfloat16: KernelType.BFLOAT16,
    torch.float8_e4m3fn: KernelType.FLOAT8,
    torch.int8: KernelType.INT8,
}


def int4_packed_is_faster(m: int, n: int, k: int) -> bool:
    """Whether a product of ``m`` rows is faster with packed weights than dequantized and through cuBLAS (on an H200)."""
    return m <= 32 or (m <= 64 and n * k >= 1 << 23)


def kernel_type(tensor: Tensor) -> KernelType:
    """The tensor's element type. Raises ``InvalidInputError`` for one that the kernels do not know."""
    if tensor.dtype not in _TYPES:
        raise InvalidInputError(f"{tensor.dtype} is not supported by the kernels ({', '.join(_TYPES.values())})")
    return _TYPES[tensor.dtype]


def stream_of(tensor: Tensor) -> int:
    """PyTorch's current stream on the tensor's device, as an integer."""
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@dataclass
class AttentionCall:
    """One layer's attention. ``run`` may be captured into a CUDA graph: everything it needs is allocated here.

    Shapes and meanings as in tt_edge_kernels.h: ``q`` ``[B, S, Hq, D]``, ``k`` and ``v`` ``[B, S, Hkv, D]``, whose last two
    dimensions are dense; ``cache`` ``[B, 2, Hkv, capacity, D]``; ``rope`` float32 ``[1 or B, positions, rotary_dim]``;
    lengths, tree mask and positions int32; ``sinks`` float32; ``counters`` int32 zeros, which calls one after the other may share.
    """

    kernels: Kernels
    q: Tensor
    k: Tensor
    v: Tensor
    cache: Tensor
    rope: Tensor | None = None
    past_lengths: Tensor | None = None
    query_lengths: Tensor | None = None
    tree_mask: Tensor | None = None
    positions: Tensor | None = None
    sinks: Tensor | None = None
    scale: float | None = None
    softcap: float = 0.0
    window: int = 0
    k_scale: float = 1.0
    v_scale: float = 1.0
    past_offset: int = 0
    splits: int = 0
    out: Tensor | None = None
    counters: Tensor | None = None
    args: AttentionArgs = field(init=False)

    def __post_init__(self) -> None:
        batch, tokens, q_heads, head_size = self.q.shape
        for name, tensor in {"q": self.q, "k": self.k, "v": self.v}.items():
            if tensor.stride(3) != 1 or tensor.stride(2) != head_size:
                raise InvalidInputError(
                    f"the heads of {name} are not dense (strides {tensor.stride()}); make it contiguous"
                )
        if not self.cache.is_contiguous():
            raise InvalidInputError("the cache is not contiguous; the kernels write to it in place")
        self.out = torch.empty_like(self.q, memory_format=torch.contiguous_format) if self.out is None else self.out
        rope = self.rope
        self.args = AttentionArgs(
            *map(_address, (self.q, self.k, self.v)),
            *(stride for x in (self.q, self.k, self.v) for stride in (x.stride(0), x.stride(1))),
            _address(self.cache),
            _address(rope),
            0 if rope is None or len(rope) == 1 else rope.stride(0),
            *map(
                _address, (self.past_lengths, self.query_lengths, self.tree_mask, self.positions, self.sinks, self.out)
            ),
            scale=head_size**-0.5 if self.scale is None else self.scale,
            softcap=self.softcap,
            k_scale=self.k_scale,
            v_scale=self.v_scale,
            past_offset=self.past_offset,
            batch=batch,
            q_tokens=tokens,
            q_heads=q_heads,
            kv_heads=self.k.shape[2],
            head_size=head_size,
            rotary_dim=0 if rope is None else rope.shape[2],
            rope_positions=0 if rope is None else rope.shape[1],
            capacity=self.cache.shape[3],
            window=self.window,
            type=kernel_type(self.q).code,
            cache_type=kernel_type(self.cache).code,
            splits=self.splits,
        )
        device = self.q.device
        self._workspace = torch.empty(
            max(self.kernels.workspace_bytes(self.args), 16), dtype=torch.uint8, device=device
        )
        wanted = max(self.kernels.counters(self.args), 1)
        if self.counters is None:
            self.counters = torch.zeros(wanted, dtype=torch.int32, device=device)
        elif len(self.counters) < wanted:
            raise InvalidInputError(f"{len(self.counters)} counters are given, and this call needs {wanted}")
        self.args.workspace, self.args.counters = _address(self._workspace), _address(self.counters)

    def run(self) -> Tensor:
        """Launch on PyTorch's current stream; returns ``out`` ``[B, S, Hq, D]``. The cache is changed."""
        assert self.out is not None
        self.kernels.attention(self.args, stream_of(self.q))
        return self.out

    def update_cache(self) -> None:
        """Launch the write into the cache alone."""
        self.kernels.kv_update(self.args, stream_of(self.q))


def int4_args(x: Tensor, weight: Tensor, scales: Tensor, y: Tensor) -> Int4Args:
    """Arguments for ``x`` ``[M, K]``, ``weight`` int8 ``[N / 2, K]`` in ``int4_packing``'s order, ``scales`` ``[K / 128, N]``."""
    group = x.shape[-1] // scales.shape[0]
    addresses = map(_address, (x, weight, scales, y))
    return Int4Args(*addresses, x.shape[0], 2 * weight.shape[0], x.shape[-1], group, kernel_type(x).code)


def int4_linear(kernels: Kernels, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """``x`` ``[M, K]`` by the transposed 4-bit weight: ``[M, N]``, by packed weights for few rows, else dequantized."""
    rows, columns = 2 * weight.shape[0], x.shape[-1]
    if int4_packed_is_faster(len(x), rows, columns):
        y = x.new_empty(len(x), rows)
        kernels.int4_gemm(int4_args(x, weight, scales, y), stream_of(x))
        return y
    matrix = x.new_empty(rows, columns)
    kernels.int4_dequantize(int4_args(x, weight, scales, matrix), stream_of(x))
    return torch.nn.functional.linear(x, matrix)


def row_product(
    kernels: Kernels,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    norm: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
) -> Tensor:
    """A linear layer of the row ``x`` ``[K]`` with ``weight`` ``[N, K]`` (gated: ``[2 N, K]``) and its neighbours: ``[N]``.

    Of ``x``, an RMSNorm with the weight ``norm`` ``[K]`` is taken first; ``gated`` is ``silu(first half) * second half``.
    """
    rows, columns = weight.shape
    y = x.new_empty(rows // 2 if gated else rows)
    addresses = map(_address, (x, weight, y, bias, residual, norm))
    args = RowArgs(*addresses, eps, int(gated), len(y), columns, kernel_type(x).code)
    kernels.row_product(args, stream_of(x))
    return y


def gemv(kernels: Kernels, x: Tensor, weight: Tensor) -> Tensor:
    """``x`` ``[M, K]`` with up to 8 rows by the transposed ``weight`` ``[N, K]``: ``[M, N]``."""
    y = x.new_empty(len(x), len(weight))
    rows, columns = weight.shape
    kind, stream = kernel_type(x), stream_of(x)
    kernels.gemv(x.data_ptr(), weight.data_ptr(), y.data_ptr(), len(x), rows, columns, kind, stream)
    return y
