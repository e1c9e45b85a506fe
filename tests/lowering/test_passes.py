"""Each pass: the operators before and after, the match count, and the same numbers."""

from __future__ import annotations

import operator

import pytest
import torch
from torch._decomp import core_aten_decompositions

import tt_edge.plugins.ops.semantic  # noqa: F401
from tests.lowering.helpers import Function, attention_module, canonical, context, export, ops, query_key_value
from tt_edge.errors import LoweringError, UnsupportedModelError
from tt_edge.lowering.base import Converters
from tt_edge.lowering.cleanup.align_constants import AlignConstants
from tt_edge.lowering.cleanup.canonicalize import Canonicalize
from tt_edge.lowering.cleanup.decompose_unsupported import DecomposeUnsupported
from tt_edge.lowering.cleanup.fuse_shuffles import FuseShuffles
from tt_edge.lowering.cleanup.rms_norm import FuseRmsNorm
from tt_edge.lowering.decoder.last_token_logits import LastTokenLogits
from tt_edge.lowering.decoder.native_attention import NativeAttention
from tt_edge.lowering.decoder.rotary_tables import RotaryTables

BS = {0: {0: "batch", 1: "sequence"}}


def run(graph_pass, module, ctx=None):
    record = graph_pass(module, ctx or context())
    module.recompile()
    return record


class TestCanonicalize:
    def test_leaves_only_what_computes(self):
        def f(_, x):
            y = x.to(torch.float32).detach()[:, 0:]
            return torch.nn.functional.dropout(y, training=False).to(torch.float16).contiguous()

        x = torch.randn(2, 5)
        module = export(Function(f), x, dynamic=BS)
        want = module(x)
        assert ops(module)["aten.slice.Tensor"] >= 1
        record = run(Canonicalize(), module)
        assert ops(module) == {"aten._to_copy.default": 1}
        assert record.matches >= 3
        torch.testing.assert_close(module(x)[0], want, rtol=0, atol=0)

    def test_keeps_a_slice_that_drops_something(self):
        x = torch.randn(2, 5)
        module = canonical(export(Function(lambda _, x: x[:, 1:] * 1.5), x))
        assert ops(module)["aten.slice.Tensor"] >= 1


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

    @pytest.mark.parametrize("variant", ["llama", "gemma"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_every_variant_keeps_its_own_weighting(self, variant, dtype):
        x = torch.randn(2, 3, 16, dtype=dtype)
        module = export(Function(getattr(self, variant), weight=torch.randn(16, dtype=dtype)), x, dynamic=BS)
        want = module(x)
        canonical(module)
        assert run(FuseRmsNorm(), module).matches == 1
        assert ops(module)["tt_edge.rms_normalize.default"] == 1
        assert "aten.rsqrt.default" not in ops(module)
        torch.testing.assert_close(module(x)[0], want, rtol=0, atol=0)

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


class TestFuseShuffles:
    @pytest.mark.parametrize(
        ("name", "function", "shuffle"),
        [
            ("split heads", lambda _, x: x.view(*x.shape[:2], -1, 4).transpose(1, 2), ([0, 1, 2], [0, 0, 3, 4], [0, 2, 1, 3])),
            ("transpose", lambda _, x: x.transpose(1, 2), ([0, 2, 1], [0, 0, 0], [0, 1, 2])),
            ("unsqueeze", lambda _, x: x.unsqueeze(2), ([0, 1, 2], [0, 0, 1, 12], [0, 1, 2, 3])),
            ("flatten", lambda _, x: x.flatten(0, 1), ([0, 1, 2], [-1, 12], [0, 1])),
            ("there and back", lambda _, x: x.transpose(1, 2).transpose(1, 2), ([0, 1, 2], [0, 0, 0], [0, 1, 2])),
        ],
    )  # fmt: skip
    def test_becomes_one_shuffle(self, name, function, shuffle):
        x = torch.randn(2, 5, 12)
        module = canonical(export(Function(function), x, dynamic=BS))
        run(FuseShuffles(), module)
        (node,) = [n for n in module.graph.nodes if n.op == "call_function" and "sym_size" not in str(n.target)]
        assert tuple(node.args[1:]) == shuffle
        for size in [(2, 5), (1, 1), (3, 12)]:
            x = torch.randn(*size, 12)
            torch.testing.assert_close(module(x)[0], function(None, x), rtol=0, atol=0)

    def test_dropping_a_dimension_is_no_permutation(self):
        """All sizes are copied, and yet it reshapes: it must not be merged as if it moved nothing."""
        x = torch.randn(4, 1)
        module = canonical(
            export(Function(lambda _, x: x.squeeze(1)[:, None].transpose(0, 1)), x, dynamic={0: {0: "b"}})
        )
        run(FuseShuffles(), module)
        torch.testing.assert_close(module(x)[0], x.T)
        module = canonical(export(Function(lambda _, x: x.squeeze(1)), x, dynamic={0: {0: "b"}}))
        run(FuseShuffles(), module)
        (node,) = [n for n in module.graph.nodes if n.op == "call_function"]
        assert tuple(node.args[1:]) == ([0, 1], [0], [0])

    def test_merge_heads_after_a_transpose(self):
        x = torch.randn(2, 3, 5, 4)
        module = canonical(
            export(Function(lambda _, x: x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)), x, dynamic={0: {0: "b", 2: "s"}})
        )  # fmt: skip
        run(FuseShuffles(), module)
        assert ops(module) == {"tt_edge.shuffle.default": 1}
        (node,) = [n for n in module.graph.nodes if n.op == "call_function"]
        assert tuple(node.args[1:]) == ([0, 2, 1, 3], [0, 0, 12], [0, 1, 2])

    def test_equal_example_sizes_are_not_taken_for_equal_dimensions(self):
        # Batch, sequence and heads are all 3 in the example; only batch may be copied from index 0.
        x = torch.randn(3, 3, 3)
        module = canonical(export(Function(lambda _, x: x.transpose(0, 1)), x, dynamic=BS))
        run(FuseShuffles(), module)
        x = torch.randn(2, 7, 3)
        torch.testing.assert_close(module(x)[0], x.transpose(0, 1), rtol=0, atol=0)


class TestAlignConstants:
    def test_weights_take_the_rank_of_the_activation_without_copies(self):
        def f(self, x):
            return torch.nn.functional.linear(x * self.scale, self.weight, self.bias)

        parameters = {"scale": torch.randn(8), "weight": torch.randn(4, 8), "bias": torch.randn(4)}
        x = torch.randn(2, 3, 8)
        source = Function(f, **parameters)
        module = export(source, x, dynamic=BS)
        want = module(x)
        canonical(module)
        run(AlignConstants(), module)
        assert ops(module) == {"aten.mul.Tensor": 1, "tt_edge.linear.default": 1}
        aligned = next(b for n, b in module.named_buffers() if n.endswith("_aligned"))
        assert aligned.shape == (1, 1, 8)
        assert aligned.data_ptr() == source.scale.data_ptr()
        torch.testing.assert_close(module(x)[0], want)


class TestLastTokenLogits:
    @staticmethod
    def head(self, x):
        return torch.tanh(torch.nn.functional.linear(x, self.weight) / 30.0) * 30.0

    def test_only_the_last_token_reaches_the_head(self):
        x = torch.randn(2, 5, 8, dtype=torch.float16)
        module = export(Function(self.head, weight=torch.randn(11, 8, dtype=torch.float16)), x, dynamic=BS)
        want = module(x)
        canonical(module)
        run(LastTokenLogits(), module)
        last = torch.tensor([4, 2])
        (got,) = module(x, last)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want[torch.arange(2), last].float(), rtol=1e-3, atol=1e-3)
        linear = next(n for n in module.graph.nodes if n.target is torch.ops.aten.linear.default)
        assert tuple(linear.meta["val"].shape[1:]) == (11,)

    def test_full_logits_are_only_converted(self):
        x = torch.randn(2, 5, 8, dtype=torch.float16)
        module = canonical(export(Function(self.head, weight=torch.randn(11, 8, dtype=torch.float16)), x, dynamic=BS))
        assert run(LastTokenLogits(), module, context(full_logits=True)).matches == 0
        assert module(x)[0].shape == (2, 5, 11)
        assert module(x)[0].dtype == torch.float32

    def test_another_head_is_refused(self):
        x = torch.randn(2, 5, 8)
        module = canonical(export(Function(lambda _, x: x.softmax(-1)), x, dynamic=BS))
        with pytest.raises(LoweringError, match="--full-logits"):
            run(LastTokenLogits(), module)


class TestRotaryTables:
    @staticmethod
    def rope(self, input_ids, position_ids, x):
        angles = position_ids[..., None].float() * self.inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        cos, sin = angles.cos() * 1.1, angles.sin() * 1.1
        return torch.ops.tt_edge.rotary_embedding(x, cos, sin)

    def module(self, function=None):
        position_ids = torch.arange(5).expand(2, 5)
        x = torch.randn(2, 3, 5, 8)
        named = Function(function or self.rope, inv_freq=10000 ** -(torch.arange(4) / 4))

        class Rope(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = named

            def forward(self, input_ids, position_ids, x):
                return self.inner(input_ids, position_ids, x)

        b, s = torch.export.Dim("b"), torch.export.Dim("s")
        args = (torch.zeros(2, 5, dtype=torch.int64), position_ids, x)
        program = torch.export.export(Rope(), args, dynamic_shapes=({0: b, 1: s}, {0: b, 1: s}, {0: b, 2: s}))
        exported = program.module(check_guards=False)
        return canonical(torch.fx.GraphModule(exported, exported.graph)), args

    def test_tables_are_the_graphs_own_values(self):
        module, (ids, positions, x) = self.module()
        want = module(ids, positions, x)
        assert run(RotaryTables(), module).matches == 1
        assert ops(module) == {"tt_edge.rotary_from_table.default": 1}
        assert module.rotary_cos.shape == (64, 4)
        torch.testing.assert_close(module(ids, positions, x), want, rtol=0, atol=0)

    def test_other_positions_are_looked_up(self):
        module, (ids, positions, x) = self.module()
        want = module(ids, positions + 40, x)
        run(RotaryTables(), module)
        torch.testing.assert_close(module(ids, positions + 40, x), want, rtol=0, atol=0)

    def test_angles_that_depend_on_the_data_are_refused(self):
        def rope(self, input_ids, position_ids, x):
            angles = torch.cat([x[:, 0, :, :4], x[:, 0, :, :4]], dim=-1)
            return torch.ops.tt_edge.rotary_embedding(x, angles.cos(), angles.sin())

        module, _ = self.module(rope)
        with pytest.raises(LoweringError, match="depend on x"):
            run(RotaryTables(), module)


class TestNativeAttention:
    @pytest.mark.parametrize("window", [0, 3])
    def test_chunks_over_the_cache_equal_one_whole_pass(self, window):
        module = attention_module(sliding_window=window)
        ctx = context()
        assert run(NativeAttention(), module, ctx).matches == 1
        assert ctx.kv_cache == [("past_key_0", "present_key_0"), ("past_value_0", "present_value_0")]
        q, k, v = query_key_value(11, seed=1)
        want = torch.ops.tt_edge.attention(q, k, v, 0.25, True, window)
        past = [torch.full((2, 2, 64, 8), 1e4)] * 2  # garbage in the unused capacity must not be seen
        start, got = 0, []
        for size in (6, 1, 3, 1):
            part = slice(start, start + size)
            ids = torch.zeros(2, size, dtype=torch.int64)
            written = torch.full((2,), start, dtype=torch.int32)
            out, *past = module(ids, q[:, :, part], k[:, :, part], v[:, :, part], written, *past)
            got.append(out)
            start += size
        torch.testing.assert_close(torch.cat(got, dim=2), want)
        expected = "masked_attention" if window else "causal_attention"
        assert ops(module)[f"tt_edge.{expected}.default"] == 1
        assert ops(module)["tt_edge.kv_cache_update.default"] == 2

    def test_padding_of_a_shorter_row_is_never_seen(self):
        module = attention_module()
        run(NativeAttention(), module)
        q, k, v = query_key_value(6, seed=2)
        want = torch.ops.tt_edge.attention(q[1:, :, :4], k[1:, :, :4], v[1:, :, :4], 0.25)
        past = [torch.zeros(2, 2, 64, 8)] * 2
        zero = torch.zeros(2, dtype=torch.int32)
        out, *past = module(torch.zeros(2, 5, dtype=torch.int64), q[:, :, :5], k[:, :, :5], v[:, :, :5], zero, *past)
        torch.testing.assert_close(out[1:, :, :4], want)
        # Row 1 had four real tokens: its fifth, padding, is overwritten by the next call and must not be attended to.
        written = torch.tensor([5, 4], dtype=torch.int32)
        step = [t[:, :, 5:6].clone() for t in (q, k, v)]
        out, *_ = module(torch.zeros(2, 1, dtype=torch.int64), *step, written, *past)
        k2, v2 = (torch.cat([t[1:, :, :4], s[1:]], dim=2) for t, s in ((k, step[1]), (v, step[2])))
        q2 = torch.cat([q[1:, :, :4], step[0][1:]], dim=2)
        torch.testing.assert_close(out[1:], torch.ops.tt_edge.attention(q2, k2, v2, 0.25)[:, :, 4:])

    def test_a_window_as_long_as_the_cache_is_plain_causal(self):
        module = attention_module(sliding_window=64)
        run(NativeAttention(), module)
        assert ops(module)["tt_edge.causal_attention.default"] == 1

    def test_a_missing_attention_is_fatal(self):
        module = attention_module()
        with pytest.raises(LoweringError, match="matched 1 times where the model has 2 decoder layers"):
            run(NativeAttention(), module, context(layers=2))

    @pytest.mark.parametrize("window", [0, 3])
    def test_bounded_scores_take_plain_layers(self, window):
        module = attention_module(softcap=0.5, sliding_window=window)
        run(NativeAttention(), module)
        counts = ops(module)
        assert counts["tt_edge.capped_attention.default"] == counts["tt_edge.sliding_window_mask.default"] == 1
        q, k, v = query_key_value(7, seed=3)
        past, zero = [torch.full((2, 2, 64, 8), 1e4)] * 2, torch.zeros(2, dtype=torch.int32)
        out, *_ = module(torch.zeros(2, 7, dtype=torch.int64), q, k, v, zero, *past)
        torch.testing.assert_close(out, torch.ops.tt_edge.attention(q, k, v, 0.25, True, window, 0.5))

    def test_what_iattention_lacks_is_refused_by_name(self):
        with pytest.raises(UnsupportedModelError, match="non-causal"):
            run(NativeAttention(), attention_module(causal=False))


def context_with(supports, table):
    ctx = context()
    ctx.converters = Converters(supports, table)
    return ctx


class TestDecompose:
    def test_only_what_lacks_a_converter(self):
        def f(_, x):
            return torch.addcmul(x, x, x, value=0.5) + torch.relu(x)

        x = torch.randn(2, 3)
        module = export(Function(f), x, dynamic=BS)
        want = module(x)
        canonical(module)
        missing = {torch.ops.aten.addcmul.default}
        record = run(
            DecomposeUnsupported(), module, context_with(lambda n: n.target not in missing, core_aten_decompositions())
        )
        assert record.matches == 1
        assert "aten.addcmul.default" not in ops(module)
        assert ops(module)["aten.relu.default"] == 1
        torch.testing.assert_close(module(x)[0], want)

    def test_an_operator_with_neither_is_named(self):
        x = torch.randn(3, 3)
        module = canonical(export(Function(lambda _, x: torch.linalg.det(x)), x))
        with pytest.raises(UnsupportedModelError, match="linalg"):
            run(DecomposeUnsupported(), module, context_with(lambda n: n.target is operator.getitem, {}))

    def test_results_of_an_operator_with_several_stay_with_it(self):
        x = torch.randn(2, 6)
        module = canonical(export(Function(lambda _, x: torch.mul(*x.chunk(2, dim=-1))), x))
        want = module(x)
        converted = (torch.ops.aten.mul.Tensor, torch.ops.aten.split_with_sizes.default)
        run(DecomposeUnsupported(), module, context_with(lambda n: n.target in converted, core_aten_decompositions()))
        assert [n.target for n in module.graph.nodes].count(operator.getitem) == 2
        torch.testing.assert_close(module(x), want)
