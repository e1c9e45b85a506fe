from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import Function, canonical, ops, run
from tt_edge.errors import LoweringError
from tt_edge.lowering.decoder.tabulate_rotary import TabulateRotary


class TestRotaryTables:
    @staticmethod
    def rope(self, input_ids, position_ids, x):
        angles = position_ids[..., None].float() * self.inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        cos, sin = angles.cos() * 1.1, angles.sin() * 1.1
        return torch.ops.tt_edge.rotary_embedding(x, cos, sin)

    def module(self, function=None, axes=()):
        position_ids = torch.arange(5).expand(*axes, 2, 5)
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
        places = {len(axes): b, len(axes) + 1: s}
        program = torch.export.export(Rope(), args, dynamic_shapes=({0: b, 1: s}, places, {0: b, 2: s}))
        exported = program.module(check_guards=False)
        return canonical(torch.fx.GraphModule(exported, exported.graph)), args

    def test_tables_are_the_graphs_own_values(self):
        module, (ids, positions, x) = self.module()
        want = module(ids, positions, x)
        assert run(TabulateRotary(), module).matches == 1
        assert ops(module) == {"tt_edge.rotary_from_table.default": 1}
        assert module.rotary_cos.shape == (64, 4)
        torch.testing.assert_close(module(ids, positions, x), want, rtol=0, atol=0)

    def test_other_positions_are_looked_up(self):
        module, (ids, positions, x) = self.module()
        want = module(ids, positions + 40, x)
        run(TabulateRotary(), module)
        torch.testing.assert_close(module(ids, positions + 40, x), want, rtol=0, atol=0)

    def test_angles_that_depend_on_the_data_are_refused(self):
        def rope(self, input_ids, position_ids, x):
            angles = torch.cat([x[:, 0, :, :4], x[:, 0, :, :4]], dim=-1)
            return torch.ops.tt_edge.rotary_embedding(x, angles.cos(), angles.sin())

        module, _ = self.module(rope)
        with pytest.raises(LoweringError, match="depend on x"):
            run(TabulateRotary(), module)

    @staticmethod
    def rope_of_axes(self, input_ids, position_ids, x):
        """Each column follows one of four axes, another one than the column of its pair (HunyuanOCR)."""
        angles = position_ids[..., None].float() * self.inv_freq  # [4, B, S, 4]
        angles = torch.cat([angles, angles], dim=-1)
        angles = torch.cat([part[axis] for axis, part in enumerate(angles.split(2, dim=-1))], dim=-1)
        return torch.ops.tt_edge.rotary_embedding(x, angles.cos(), angles.sin())

    def test_pairs_whose_numbers_follow_different_axes_are_rotated_by_arithmetic(self):
        """Rows by axis once, and no rotary layer, which has one angle for a pair."""
        module, (ids, positions, x) = self.module(self.rope_of_axes, axes=(4,))
        positions = torch.randint(0, 64, positions.shape)
        want = module(ids, positions, x)
        assert run(TabulateRotary(), module).matches == 1
        counts = ops(module)
        assert counts["tt_edge.axis_rows.default"] == 2
        assert not any("rotary" in name for name in counts)
        assert module.rotary_cos.shape == (64, 8)
        torch.testing.assert_close(module(ids, positions, x), want)

    def test_pairs_with_two_angles_on_one_axis_are_refused(self):
        def rope(self, input_ids, position_ids, x):
            angles = position_ids[..., None].float() * torch.cat([self.inv_freq, 2 * self.inv_freq])
            return torch.ops.tt_edge.rotary_embedding(x, angles.cos(), angles.sin())

        module, _ = self.module(rope)
        with pytest.raises(LoweringError, match="do not repeat in halves"):
            run(TabulateRotary(), module)
