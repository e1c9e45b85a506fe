"""tt-edge's CUDA kernels beside PyTorch's, on the GPU that is here: floors first, then times.

    tt-edge plugin build && python benchmarks/attention_kernels.py

Medians of CUDA-graph replays over buffers that rotate through more than the L2 cache, so that every call reads its cache
from memory, as in a real step. Our attention includes RoPE and the write into the KV cache; PyTorch's does not. Calls follow one
another, and a kernel of ours may start before the one before it has ended; "alone" is the time after a small kernel of PyTorch's,
which allows no such overlap, less that kernel's own.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from tt_edge.plugins.cuda.library import Kernels, load_kernels
from tt_edge.plugins.cuda.tensors import AttentionCall, gemv, int4_args, int4_linear, stream_of

ROTATE_BYTES = 256 << 20
SHAPES = {"Llama-3-8B": (32, 8, 128), "Qwen2.5-0.5B": (14, 2, 64)}
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


class Replayed:
    """All of some calls in turn, at least ``least`` in all, in one CUDA graph."""

    def __init__(self, calls: Sequence[Callable[[], Any]], least: int = 20) -> None:
        rounds = -(-least // len(calls))
        self.count, stream = rounds * len(calls), torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for call in calls:
                call()
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            for _ in range(rounds):
                for call in calls:
                    call()
        self._graph.replay()

    def microseconds(self, replays: int = 15) -> float:
        """Time of one call, the median of ``replays``."""
        times = []
        for _ in range(replays):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            self._graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3 / self.count)
        return statistics.median(times)


def microseconds(contenders: dict[str, Sequence[Callable[[], Any]]], rounds: int, least: int = 20) -> dict[str, Any]:
    """Times of a call of each, taken in turn ``rounds`` times, since the GPU's clocks change: medians by name."""
    graphs = {name: Replayed(calls, least) for name, calls in contenders.items()}
    times = [{name: graph.microseconds() for name, graph in graphs.items()} for _ in range(rounds + 1)][1:]
    return {name: statistics.median(round_[name] for round_ in times) for name in graphs} | {"rounds": times}


def quotients(row: dict[str, Any], peer: str) -> str:
    """How many times ``peer``'s speed ours is: the median over rounds, the least and the most."""
    each = [round_[peer] / round_["tt-edge"] for round_ in row["rounds"]]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def with_alone(contenders: dict[str, Sequence[Callable[[], Any]]], rounds: int) -> dict[str, Any]:
    """The same, and by "... alone" each one's time after a small kernel of PyTorch's, without that kernel's."""
    number = torch.zeros(1, device="cuda")

    def small() -> None:
        number.add_(1)

    pairs = {f"{name} alone": [part for call in calls for part in (small, call)] for name, calls in contenders.items()}
    row = microseconds({**contenders, **pairs, "small": [small] * 64}, rounds)
    taken = row.pop("small")
    return row | {name: 2 * row[name] - taken for name in pairs}


def copy_bandwidth() -> float:
    """GB/s of a large copy, bytes read and written. Not in a graph, whose copies are slower."""
    a = torch.randn(1 << 29, device="cuda")
    b = torch.empty_like(a)
    times = []
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        b.copy_(a)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return 2 * a.nbytes / statistics.median(times) / 1e6


def product_rate() -> float:
    """TFLOP/s of a large fp16 product."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    return 2 * 8192**3 / Replayed([lambda: a @ b], least=5).microseconds() / 1e6


def table(positions: int, size: int) -> Tensor:
    """A RoPE table."""
    angles = torch.rand(1, positions, size // 2, device="cuda") * 6
    return torch.cat([angles.cos(), angles.sin()], -1).contiguous()


def decode_row(
    kernels: Kernels, name: str, batch: int, tokens: int, bandwidth: float, args: argparse.Namespace
) -> dict[str, Any]:
    """Decode with ``tokens`` in the cache, the new one included."""
    q_heads, kv_heads, size = SHAPES[name]
    shape = (batch, 2, kv_heads, tokens, size)
    nbytes = 2 * torch.Size(shape).numel()
    count = max(2, min(64, -(-ROTATE_BYTES // nbytes)))
    caches = [torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(count)]
    rope = table(tokens, size)
    past = torch.full((batch,), tokens - 1, dtype=torch.int32, device="cuda")
    packed = [torch.randn(batch, 1, q_heads + 2 * kv_heads, size, device="cuda", dtype=torch.float16) for _ in caches]
    row: dict[str, Any] = {"case": f"decode {name} batch {batch} at {tokens}", "floor": nbytes / bandwidth / 1e3}

    def ours(splits: int) -> list[Callable[[], Any]]:
        return [
            AttentionCall(
                kernels,
                x[:, :, :q_heads],
                x[:, :, q_heads : q_heads + kv_heads],
                x[:, :, q_heads + kv_heads :],
                cache,
                rope,
                past_lengths=past,
                splits=splits,
            ).run
            for x, cache in zip(packed, caches, strict=True)
        ]

    queries = [x[:, :, :q_heads].transpose(1, 2) for x in packed]
    contenders = {"tt-edge": ours(0)} | {
        peer: attention_of(backend, queries, caches) for peer, backend in BACKENDS.items()
    }
    row |= with_alone(contenders, args.rounds)
    if args.sweep:
        row["splits"] = {splits: round(Replayed(ours(splits)).microseconds(), 2) for splits in args.sweep}
    row["of cuDNN's speed"] = quotients(row, "cudnn")
    row["of the copy"] = f"{100 * row['floor'] / row['tt-edge']:.0f} %"
    return row


def attention_of(
    backend: SDPBackend, queries: Sequence[Tensor], caches: Sequence[Tensor], **settings: bool
) -> list[Callable[[], Any]]:
    """PyTorch's attention of each of ``queries`` to keys and values ``[B, 2, H, T, D]``."""

    def call(q: Tensor, cache: Tensor) -> None:
        with sdpa_kernel(backend):
            functional.scaled_dot_product_attention(q, cache[:, 0], cache[:, 1], enable_gqa=True, **settings)

    return [partial(call, q, cache) for q, cache in zip(queries, caches, strict=True)]


def prefill_row(kernels: Kernels, name: str, tokens: int, rate: float, args: argparse.Namespace) -> dict[str, Any]:
    """A causal prompt of ``tokens`` into an empty cache."""
    q_heads, kv_heads, size = SHAPES[name]
    flops = 4 * q_heads * size * tokens * (tokens + 1) / 2
    count = 4
    caches = [torch.randn(1, 2, kv_heads, tokens, size, device="cuda", dtype=torch.float16) for _ in range(count)]
    packed = [torch.randn(1, tokens, q_heads + 2 * kv_heads, size, device="cuda", dtype=torch.float16) for _ in caches]
    rope = table(tokens, size)
    calls = [
        AttentionCall(
            kernels,
            x[:, :, :q_heads],
            x[:, :, q_heads : q_heads + kv_heads],
            x[:, :, q_heads + kv_heads :],
            cache,
            rope,
        )
        for x, cache in zip(packed, caches, strict=True)
    ]
    row: dict[str, Any] = {"case": f"prefill {name} at {tokens}", "floor": flops / rate / 1e6}
    queries = [x[:, :, :q_heads].transpose(1, 2).contiguous() for x in packed]
    contenders: dict[str, Sequence[Callable[[], Any]]] = {
        "tt-edge": [call.run for call in calls],
        "update": [call.update_cache for call in calls],
        **{peer: attention_of(backend, queries, caches, is_causal=True) for peer, backend in BACKENDS.items()},
    }
    row |= microseconds(contenders, args.rounds, least=4)
    row["of flash's speed"] = quotients(row, "flash")
    row["TFLOP/s"] = {key: round(flops / row[key] / 1e6) for key in ("tt-edge", *BACKENDS)}
    return row


def product_row(kernels: Kernels, m: int, n: int, k: int, bandwidth: float, args: argparse.Namespace) -> dict[str, Any]:
    """``m`` rows by 4-bit and 16-bit weights ``[n, k]``."""
    count = max(2, min(64, -(-ROTATE_BYTES // (n * k // 2))))
    x, x16 = (torch.randn(m, k, device="cuda").to(dtype) for dtype in (torch.float16, torch.bfloat16))
    y = x.new_empty(m, n)
    packed = [torch.randint(-128, 128, (n // 2, k), dtype=torch.int8, device="cuda") for _ in range(count)]
    scales = torch.rand(k // 128, n, device="cuda", dtype=torch.float16)
    row: dict[str, Any] = {"case": f"int4 {m} x {n} x {k}", "floor": n * k * 0.5156 / bandwidth / 1e3}
    matrix = x.new_empty(n, k)

    def dequantized(w: Tensor) -> None:
        kernels.int4_dequantize(int4_args(x, w, scales, matrix), stream_of(x))
        torch.mm(x, matrix.T, out=y)

    def own(w: Tensor) -> None:
        kernels.int4_gemm(int4_args(x, w, scales, y), stream_of(x))

    words = [torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device="cuda") for _ in range(count)]
    torchs = [torch._convert_weight_to_int4pack(w, 8) for w in words]
    zeros = torch.rand(k // 128, n, 2, device="cuda", dtype=torch.bfloat16)
    weights = [torch.randn(n, k, device="cuda", dtype=torch.float16) for _ in range(max(2, count // 4))]
    contenders: dict[str, Sequence[Callable[[], Any]]] = {
        "tt-edge": [partial(own, w) for w in packed] if m <= 64 else [],
        "dequantize": [partial(dequantized, w) for w in packed],
        "chosen": [partial(int4_linear, kernels, x, w, scales) for w in packed],
        "int4pack": [partial(torch._weight_int4pack_mm, x16, w, 128, zeros) for w in torchs],
        "fp16 cuBLAS": [lambda w=w: torch.mm(x, w.T, out=y) for w in weights],
        "fp16 tt-edge": [partial(gemv, kernels, x, w) for w in weights] if m <= 8 else [],
    }
    contenders = {name: calls for name, calls in contenders.items() if calls}
    row |= with_alone(contenders, args.rounds) if m == 1 else microseconds(contenders, args.rounds)
    row["fp16 floor"] = n * k * 2 / bandwidth / 1e3
    if m == 1:
        row["of int4pack's speed"] = quotients(row, "int4pack")
    return row


def show(row: dict[str, Any]) -> None:
    """One line, times in microseconds."""
    shown = {key: value for key, value in row.items() if key != "rounds"}
    parts = [f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()]
    print(" | ".join(parts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=["decode", "prefill", "int4"], help="decode, prefill, int4")
    parser.add_argument("--rounds", type=int, default=5, help="how often every contender is timed, in turn")
    parser.add_argument("--sweep", nargs="*", type=int, help="also decode with these numbers of splits")
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this needs an NVIDIA GPU and its driver, and there is none here")
    kernels = load_kernels()
    bandwidth, rate = copy_bandwidth(), product_rate()
    print(
        f"{torch.cuda.get_device_name()}: copy {bandwidth:.0f} GB/s, fp16 product {rate:.0f} TFLOP/s; times in µs",
        flush=True,
    )
    rows = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        show(row)
        torch.cuda.empty_cache()

    if "decode" in args.only:
        for name in SHAPES:
            for batch, tokens in ((1, 4096), (1, 32768), (4, 32768)):
                add(decode_row(kernels, name, batch, tokens, bandwidth, args))
    if "prefill" in args.only:
        for name in SHAPES:
            for tokens in (2048, 8192):
                add(prefill_row(kernels, name, tokens, rate, args))
    if "int4" in args.only:
        worst = 0.0
        for n, k in ((4096, 4096), (14336, 4096), (4864, 896), (896, 4864)):
            for m in (1, 2, 4, 8, 16, 32, 33, 48, 64, 65, 128, 512):
                add(product_row(kernels, m, n, k, bandwidth, args))
                worst = max(worst, rows[-1]["chosen"] / rows[-1]["dequantize"])
        print(f"int4: the chosen way takes at most {worst:.3f} times as long as dequantizing and cuBLAS")
    if args.json:
        found = {"gpu": torch.cuda.get_device_name(), "copy GB/s": bandwidth, "fp16 TFLOP/s": rate, "rows": rows}
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
