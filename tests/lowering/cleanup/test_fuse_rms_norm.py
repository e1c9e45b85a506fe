from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import Function, canonical, export, ops, run
from tt_edge.lowering.cleanup.fuse_rms_norm import FuseRmsNorm

BS = {0: {0: "batch", 1: "sequence"}}


class TestFuseRmsNorm:
    @staticmethod
    def llama(self, x):
        h = x.to(torch.float32)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * h.to(x.dtype)

    @staticmethod
    def gemma(self, x):
        h = x.float()
        out = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + self.weight.float())
        return out.type_as(x)

    @staticmethod
    def gemma4(self, x):
        h = x.float()
        return (h * torch.pow(h.pow(2).mean(-1, keepdim=True) + 1e-6, -0.5) * self.weight.float()).type_as(x)

    @pytest.mark.parametrize("variant", ["llama", "gemma", "gemma4"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_every_variant_keeps_its_own_weighting(self, variant, dtype):
        x = torch.randn(2, 3, 16, dtype=dtype)
        module = export(Function(getattr(self, variant), weight=torch.randn(16, dtype=dtype)), x, dynamic=BS)
        want = module(x)
        canonical(module)
        assert run(FuseRmsNorm(), module).matches == 1
        assert ops(module)["tt_edge.rms_normalize.default"] == 1
        assert "aten.rsqrt.default" not in ops(module)
        exact = {"rtol": 0, "atol": 0} if variant != "gemma4" else {}  # a power is rounded otherwise than a root
        torch.testing.assert_close(module(x)[0], want, **exact)

    def test_leaves_a_mean_over_another_dimension(self):
        def f(_, x):
            return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)

        module = canonical(export(Function(f), torch.randn(2, 3, 16)))
        assert run(FuseRmsNorm(), module).matches == 0

    def test_leaves_a_norm_of_something_else(self):
        def f(_, x):
            return x * torch.rsqrt((x + 1).pow(2).mean(-1, keepdim=True) + 1e-6)

        module = canonical(export(Function(f), torch.randn(2, 3, 16)))
        assert run(FuseRmsNorm(), module).matches == 0
