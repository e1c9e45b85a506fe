"""Rotary embedding as gathers and arithmetic, for TensorRT before 10.15."""

from __future__ import annotations

from tt_edge.network.ir import Attribute, Layer
from tt_edge.network.legalize.editor import Editor
from tt_edge.network.legalize.rule import Rule
from tt_edge.tensorrt_features import ROTARY_EMBEDDING


class RotaryArithmetic(Rule):
    """Replaces rotary embedding by arithmetic; the table rows are looked up once for all layers.

    Before::

        1. y = rotary_embedding(x, cos, sin, positions)          x [B, H, S, D], tables [P, R / 2], positions [B, S]

    After::

        1. c, s = gather(cos, positions), gather(sin, positions)                     [B, S, R / 2], once
        2. C, Z = [c, c] and [-s, s] as [B, 1, S, R]                                  once
        3. y = concatenate(x[..., :R] * C + swapped * Z, x[..., R:])                  swapped is [x[R / 2 : R], x[: R / 2]]

    Without positions, ``cos`` and ``sin`` already hold the rows. An interleaved rotation pairs neighbours: its halves are
    the even and the odd elements, and the result is interleaved again.
    """

    feature = ROTARY_EMBEDDING

    def rewrite(self, layer: Layer, editor: Editor) -> bool:
        if layer.kind != "ROTARY_EMBEDDING":
            return False
        x, cos, sin = (str(name) for name in layer.inputs[:3])
        positions = layer.inputs[3] if len(layer.inputs) > 3 else None
        interleaved = bool(layer.attributes.get("interleaved", False))
        _Rotation(layer, editor, x, interleaved).add(*_rows(editor, layer.name, cos, sin, positions))
        return True


def _rows(editor: Editor, name: str, cos: str, sin: str, positions: str | None) -> tuple[str, str]:
    """Each token's cosines ``[c, c]`` and sines ``[-s, s]``, ``[B, 1, S, R]``."""

    def looked_up(table: str, suffix: str) -> str:
        if positions is None:
            return table
        shape = (*editor.shape(positions), editor.shape(table)[1])
        attributes: dict[str, Attribute] = {"axis": 0, "mode": "DEFAULT", "num_elementwise_dims": 0}
        return editor.shared(
            ("rows", table, positions),
            lambda: editor.add(
                f"{name}.{suffix}", "GATHER", [table, positions], editor.dtype(table), shape, **attributes
            ),
        )

    def whole(rows: str, suffix: str, negated: bool) -> str:
        batch, length, half = editor.shape(rows)
        dtype = editor.dtype(rows)
        first = rows
        if negated:
            first = editor.add(f"{name}.minus_{suffix}", "UNARY", [rows], dtype, (batch, length, half), op="NEG")
        both = editor.joined(f"{name}.{suffix}_twice", [first, rows])
        # A 1 at the end, then transposed to its place: no size has to be known.
        return editor.shuffle(
            f"{name}.{suffix}_of_heads", both, (0, 0, 0, 1), (batch, 1, length, 2 * half), second_transpose=[0, 3, 1, 2]
        )

    c, s = looked_up(cos, "cos"), looked_up(sin, "sin")
    return (
        editor.shared(("cos", c), lambda: whole(c, "cos", False)),
        editor.shared(("sin", s), lambda: whole(s, "sin", True)),
    )


class _Rotation:
    def __init__(self, layer: Layer, editor: Editor, x: str, interleaved: bool) -> None:
        self.name, self.output, self.editor, self.interleaved = layer.name, layer.outputs[0], editor, interleaved
        self.x, self.dtype = x, editor.dtype(x)

    def add(self, cos: str, sin: str) -> None:
        editor, name = self.editor, self.name
        rotated, size = editor.shape(cos)[-1], editor.shape(self.x)[-1]
        half = rotated // 2
        first, second, stride = (0, 1, 2) if self.interleaved else (0, half, 1)
        a = editor.slice_last(f"{name}.first", self.x, first, half, stride)
        b = editor.slice_last(f"{name}.second", self.x, second, half, stride)
        straight = self.x
        if self.interleaved:
            straight = editor.joined(f"{name}.halves", [a, b])
        elif rotated != size:
            straight = editor.slice_last(f"{name}.rotated", self.x, 0, rotated)
        swapped = editor.joined(f"{name}.swapped", [b, a])
        cos, sin = self.of_type(cos), self.of_type(sin)
        by_cos = editor.elementwise(f"{name}.by_cos", "PROD", straight, cos)
        by_sin = editor.elementwise(f"{name}.by_sin", "PROD", swapped, sin)
        last = rotated == size and not self.interleaved
        out = editor.elementwise(f"{name}.sum", "SUM", by_cos, by_sin, self.output if last else None)
        if self.interleaved:
            out = self.paired(out, half, self.output if rotated == size else None)
        if rotated != size:
            rest = editor.slice_last(f"{name}.rest", self.x, rotated, size - rotated)
            editor.joined(f"{name}.whole", [out, rest], self.output)

    def of_type(self, table: str) -> str:
        if self.editor.dtype(table) is self.dtype:
            return table
        return self.editor.shared(
            ("of type", table, self.dtype), lambda: self.editor.cast(f"{self.name}.table", table, self.dtype)
        )

    def paired(self, halves: str, half: int, output: str | None) -> str:
        """``[…, a0, a1, …, b0, b1, …]`` as ``[…, a0, b0, a1, b1, …]``."""
        editor, shape = self.editor, self.editor.shape(halves)
        apart = editor.shuffle(
            f"{self.name}.pairs", halves, (0, 0, 0, 2, half), (*shape[:3], half, 2), second_transpose=[0, 1, 2, 4, 3]
        )
        return editor.shuffle(f"{self.name}.paired", apart, (0, 0, 0, 2 * half), shape, output)
