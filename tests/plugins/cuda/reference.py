"""What the kernels have to compute, in float64, and cases to compute it for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tt_edge.plugins.cuda.library import Kernels
from tt_edge.plugins.cuda.tensors import AttentionCall

FP16, BF16, FP8, INT8 = torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8


@dataclass(frozen=True)
class Case:
    """One call: ``past`` and ``fresh`` tokens of each slot, padded to the longest ``fresh``."""

    past: tuple[int, ...]
    fresh: tuple[int, ...]
    heads: tuple[int, int] = (4, 2)
    head_size: int = 64
    dtype: torch.dtype = FP16
    cache_dtype: torch.dtype | None = None
    capacity: int = 0
    rotary_dim: int | None = None
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    tree: bool = False
    past_offset: int = 0
    packed: bool = True
    splits: int = 0

    def __str__(self) -> str:
        default = Case((), ())
        shown = {k: v for k, v in vars(self).items() if v != getattr(default, k)}
        return "-".join(f"{k}={str(v).removeprefix('torch.').replace(' ', '')}" for k, v in shown.items())

    def with_(self, **changes: Any) -> Case:
        return replace(self, **changes)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """``x`` ``[..., D]`` by rows of cosines and sines ``[..., rotary_dim]``, halves paired, in float64."""
    half = table.shape[-1] // 2
    cosine, sine = table[..., :half].double(), table[..., half:].double()
    a, b, rest = x[..., :half].double(), x[..., half : 2 * half].double(), x[..., 2 * half :].double()
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine, rest], -1)


def stored(x: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    """Numbers as a cache of ``dtype`` holds them."""
    if dtype == INT8:
        return (x.float() / scale).round().clamp(-127, 127).to(INT8)
    if dtype == FP8:
        return (x.float() / scale).clamp(-448, 448).to(FP8)
    return x.to(dtype)


class Run:
    """Fresh random inputs of a case, the kernels' results, and what they have to be."""

    def __init__(self, kernels: Kernels, case: Case, device: str = "cuda") -> None:
        self.case = case
        batch, width, size = len(case.past), max(*case.fresh, 1), case.head_size
        hq, hkv = case.heads
        kind = case.cache_dtype or case.dtype
        capacity = case.capacity or max(p + f for p, f in zip(case.past, case.fresh, strict=True)) + 37
        self.k_scale, self.v_scale = {FP8: (0.011, 0.017), INT8: (0.03, 0.025)}.get(kind, (1.0, 1.0))
        self.capacity = capacity
        packed = torch.randn(batch, width, (hq + 2 * hkv) * size, device=device).to(case.dtype)
        heads = packed.view(batch, width, hq + 2 * hkv, size)
        self.q, self.k, self.v = heads[:, :, :hq], heads[:, :, hq : hq + hkv], heads[:, :, hq + hkv :]
        if not case.packed:
            self.q, self.k, self.v = self.q.contiguous(), self.k.contiguous(), self.v.contiguous()
        # What lies beyond the past is poison: NaN, or the largest number.
        past = torch.randn(batch, 2, hkv, capacity, size, device=device)
        scales = torch.tensor([self.k_scale, self.v_scale], device=device).view(1, 2, 1, 1, 1)
        self.before = stored((past / scales).to(case.dtype), kind, 1.0) if kind in (FP8, INT8) else past.to(kind)
        poison = torch.full_like(past, 127 if kind == INT8 else float("nan")).to(kind)
        bits = torch.uint8 if kind in (FP8, INT8) else kind  # FP8 has no operators of its own
        beyond = torch.arange(capacity, device=device) >= torch.tensor(case.past, device=device)[:, None]
        mask = beyond[:, None, None, :, None].expand(past.shape)
        self.before = torch.where(mask, poison.view(bits), self.before.view(bits)).view(kind)
        rotary = size if case.rotary_dim is None else case.rotary_dim
        angles = torch.rand(1, capacity, max(rotary, 2) // 2, device=device) * 6.3
        self.rope = torch.cat([angles.cos(), angles.sin()], -1).contiguous() if rotary else None
        self.sinks = torch.randn(hq, device=device) * 2 if case.sinks else None
        self.sees, self.positions, tree_mask = self._mask(batch, width, device)
        cache = self.before.clone()
        self.call = AttentionCall(
            kernels, self.q, self.k, self.v, cache, self.rope,
            past_lengths=torch.tensor(case.past, dtype=torch.int32, device=device) - case.past_offset,
            query_lengths=torch.tensor(case.fresh, dtype=torch.int32, device=device),
            tree_mask=tree_mask,
            positions=self.positions.int().contiguous() if case.tree else None,
            sinks=self.sinks, softcap=case.softcap, window=case.window, k_scale=self.k_scale, v_scale=self.v_scale,
            past_offset=case.past_offset, splits=case.splits,
        )  # fmt: skip
        assert self.call.out is not None
        self.call.out.fill_(float("nan"))
        self.call._workspace.fill_(255)

    def _mask(self, batch: int, width: int, device: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Which new tokens see which new tokens ``[B, S, S]``, RoPE positions ``[B, S]``, and the tree's bits."""
        past = torch.tensor(self.case.past, device=device)[:, None]
        if not self.case.tree:
            sees = torch.ones(width, width, dtype=torch.bool, device=device).tril().expand(batch, -1, -1)
            positions = past + torch.arange(width, device=device)
            return sees, positions.clamp_max(self.capacity - 1), None
        parents = [[-1] + [int(torch.randint(i, ())) for i in range(1, width)] for _ in range(batch)]
        sees = torch.zeros(batch, width, width, dtype=torch.bool)
        depth = torch.zeros(batch, width, dtype=torch.long)
        for b, of in enumerate(parents):
            for i, parent in enumerate(of):
                if parent >= 0:
                    sees[b, i] = sees[b, parent]
                    depth[b, i] = depth[b, parent] + 1
                sees[b, i, i] = True
        words = torch.zeros(batch, width, -(-width // 32), dtype=torch.int64)
        for i in range(width):
            words[:, :, i // 32] |= sees[:, :, i].long() << (i % 32)
        bits = torch.where(words >= 2**31, words - 2**32, words).int().to(device)
        return sees.to(device), past + depth.to(device), bits

    def expected_cache(self) -> Tensor:
        """The cache after the call, but for the rounding of RoPE in another precision."""
        case, cache = self.case, self.before.clone()
        keys = self.k if self.rope is None else rotate(self.k, self.rope[0][self.positions][:, :, None]).to(case.dtype)
        raw = cache.view(torch.uint8) if cache.dtype == FP8 else cache
        for b, (past, fresh) in enumerate(zip(case.past, case.fresh, strict=True)):
            for which, (new, scale) in enumerate(((keys, self.k_scale), (self.v, self.v_scale))):
                numbers = stored(new[b, :fresh], cache.dtype, scale)
                numbers = numbers.view(torch.uint8) if cache.dtype == FP8 else numbers
                raw[b, which, :, past : past + fresh] = numbers.transpose(0, 1)
        return cache

    def expected(self) -> Tensor:
        """Attention in float64, ``[B, S, Hq, D]``; zero for padding."""
        # Numbers of 8 bits may have been rounded the other way; `_check_cache` bounds that, and the rest is compared exactly.
        case, cache = self.case, self.call.cache if self.k_scale != 1.0 else self.expected_cache()
        ratio = case.heads[0] // case.heads[1]
        out = torch.zeros(self.q.shape, dtype=torch.float64, device=self.q.device)
        q = self.q if self.rope is None else rotate(self.q, self.rope[0][self.positions][:, :, None]).to(case.dtype)
        for b, (past, fresh) in enumerate(zip(case.past, case.fresh, strict=True)):
            if fresh == 0:
                continue
            length = past + fresh
            keys = cache[b, 0, :, :length].to(torch.float64) * self.k_scale
            values = cache[b, 1, :, :length].to(torch.float64) * self.v_scale
            keys, values = (x.repeat_interleave(ratio, 0) for x in (keys, values))
            scores = q[b, :fresh].double().transpose(0, 1) @ keys.transpose(1, 2) * case.head_size**-0.5  # [Hq, S, T]
            if case.softcap:
                scores = case.softcap * torch.tanh(scores / case.softcap)
            seen = torch.ones(fresh, length, dtype=torch.bool, device=q.device)
            seen[:, past:] = self.sees[b, :fresh, :fresh]
            if case.window:
                token, position = torch.arange(length, device=q.device), self.positions[b, :fresh, None]
                near = token > position - case.window
                seen &= near | (token >= past) if case.tree else near
            scores = scores.masked_fill(~seen, -torch.inf)
            if self.sinks is not None:
                sinks = self.sinks.double()[:, None, None].expand(-1, fresh, 1)
                weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
            else:
                weights = scores.softmax(-1)
            out[b, :fresh] = (weights @ values).transpose(0, 1)
        return out

    def check(self) -> float:
        """Run, compare output and cache with the reference, and return the output's relative error."""
        case = self.case
        out = self.call.run()
        torch.cuda.synchronize()
        self._check_cache()
        expected = self.expected()
        assert out.isfinite().all(), f"{case}: elements not written, or poison read"
        for b, fresh in enumerate(case.fresh):
            assert not out[b, fresh:].any(), f"{case}: padding is not zero"
        error = float((out.double() - expected).norm() / expected.norm().clamp_min(1e-30))
        bound = {FP16: 1e-3, BF16: 8e-3}[case.dtype]
        assert error < bound, f"{case}: relative error {error:.2e} over {bound}"
        worst = float((out.double() - expected).abs().max())
        assert worst < 20 * bound, f"{case}: an element is off by {worst:.2e}"
        # What is left of one call does not disturb the next, which writes the same.
        again = out.clone()
        self.call.run()
        torch.cuda.synchronize()
        assert torch.equal(again, out), f"{case}: a second run differs"
        assert not self.call.counters.any(), f"{case}: counters are not back at 0"
        return error

    def _check_cache(self) -> None:
        case, cache = self.case, self.call.cache
        expected = self.expected_cache()
        new = torch.zeros(cache.shape, dtype=torch.bool, device=cache.device)
        for b, (past, fresh) in enumerate(zip(case.past, case.fresh, strict=True)):
            new[b, :, :, past : past + fresh] = True
        as_int = {2: torch.int16, 1: torch.uint8}[cache.element_size()]
        same = cache.view(as_int) == expected.view(as_int)
        assert same[~new].all(), f"{case}: the cache changed outside the new tokens"
        # RoPE in float32 may round the other way: one step of the 16-bit type, then one of the cache's.
        step = {FP16: 2**-10, BF16: 2**-7, FP8: 2**-2, INT8: 0.0}[cache.dtype]
        a, b = cache.float().double()[new], expected.float().double()[new]
        floor = {FP16: 2e-3, BF16: 1.6e-2, FP8: 2**-8, INT8: 1.01}[cache.dtype]
        assert ((a - b).abs() <= step * b.abs() + floor).all(), f"{case}: the new tokens in the cache are wrong"
        if int(new.sum()):
            assert float(same[new].float().mean()) > 0.97, f"{case}: too many of the new tokens' numbers differ"
