"""Attention as matrix multiplies around a softmax, for TensorRT before 10.14 and wherever attention layers are refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.network.ir import Layer
from tt_edge.network.legalize.editor import Editor
from tt_edge.network.legalize.rule import Rule
from tt_edge.tensorrt_features import ATTENTION

#: In place of minus infinity: a query that sees no key has an arbitrary result, but no NaN.
_NEVER = np.finfo(np.float32).min


class PlainAttention(Rule):
    """Computes scores, a softmax in float32, and the weighted sum. Query heads that share K and V get a separate dimension.

    Before (``LengthsToMask`` has already replaced the causal diagonal and lengths by a mask)::

        1. y = attention(q, K, V, mask=mask)      q [B, H, S, D], K and V [B, Hkv, T, D], mask [B or 1, 1, S, T] or none

    After, with G = H / Hkv (and without the dimension where G is 1)::

        1. scores = matmul(q as [B, Hkv, G, S, D], K as [B, Hkv, 1, T, D] transposed)
        2. weights = cast(softmax(select(mask as [B, 1, 1, S, T], float32(scores), lowest)))
        3. y = matmul(weights, V as [B, Hkv, 1, T, D]) as [B, H, S, D]

    A mask of numbers is added to the scores. The scores of one layer are B * H * S * T elements: ``scores_bytes``.
    """

    feature = ATTENTION

    def rewrite(self, layer: Layer, editor: Editor) -> bool:
        if layer.kind != "ATTENTION":
            return False
        query, key, value, mask, scale = layer.inputs[:5]
        assert query is not None
        assert key is not None
        assert value is not None
        if scale is not None or layer.attributes.get("norm_op", "SOFTMAX") != "SOFTMAX":
            raise EngineError(
                f"attention {layer.name!r} is quantized or has no softmax, which needs {self.feature.release}; build there"
            )
        _Attention(layer.name, editor, query, key, value, mask, layer.outputs[0]).add()
        return True


class _Attention:
    def __init__(
        self, name: str, editor: Editor, query: str, key: str, value: str, mask: str | None, output: str
    ) -> None:
        self.name, self.editor, self.output = name, editor, output
        self.query, self.key, self.value, self.mask = query, key, value, mask
        self.heads, self.kv_heads = editor.shape(query)[1], editor.shape(key)[1]
        if -1 in (self.heads, self.kv_heads):
            raise EngineError(f"attention {name!r} has a dynamic number of heads, which needs {ATTENTION.release}")
        self.group = self.heads // self.kv_heads

    def add(self) -> None:
        editor, name, dtype = self.editor, self.name, self.editor.dtype(self.query)
        query, key, value, mask = self.query, self.key, self.value, self.mask
        if self.group > 1:
            query = self.grouped(query, "query", self.group)
            key, value = self.grouped(key, "key", 1), self.grouped(value, "value", 1)
            mask = self.with_group(mask) if mask is not None else None
        sizes = [*editor.shape(query)[:-1], editor.shape(key)[-2]]
        scores = self.product("scores", query, key, "TRANSPOSE", sizes)
        scores = editor.cast(f"{name}.float32", scores, DType.FLOAT32)
        if mask is not None:
            scores = self.masked(scores, mask)
        axes = 1 << (len(sizes) - 1)
        weights = editor.add(f"{name}.softmax", "SOFTMAX", [scores], DType.FLOAT32, sizes, axes=axes)
        weights = editor.cast(f"{name}.weights", weights, dtype)
        width = editor.shape(value)[-1]
        if self.group == 1:
            self.product("sum", weights, value, "NONE", [*sizes[:-1], width], self.output)
            return
        summed = self.product("sum", weights, value, "NONE", [*sizes[:-1], width])
        editor.shuffle(f"{name}.joined", summed, (0, self.heads, -1, width), (-1, self.heads, -1, width), self.output)

    def product(self, suffix: str, a: str, b: str, op: str, shape: list[int], output: str | None = None) -> str:
        name, dtype = f"{self.name}.{suffix}", self.editor.dtype(self.query)
        return self.editor.add(name, "MATRIX_MULTIPLY", [a, b], dtype, shape, output, op0="NONE", op1=op)

    def grouped(self, tensor: str, suffix: str, group: int) -> str:
        batch, _, length, width = self.editor.shape(tensor)
        dims = (0, self.kv_heads, group, -1, width)
        shape = (batch, self.kv_heads, group, length, width)
        return self.editor.shared(
            ("grouped", tensor, group), lambda: self.editor.shuffle(f"{self.name}.{suffix}", tensor, dims, shape)
        )

    def with_group(self, mask: str) -> str:
        """``[B, 1, S, T]`` as ``[B, 1, 1, S, T]``; a mask for each head is split as the query is."""
        editor, (batch, heads, queries, keys) = self.editor, self.editor.shape(mask)
        if heads != 1:
            split: dict[str, Any] = {"first_transpose": [0, 2, 3, 1], "second_transpose": [0, 3, 4, 1, 2]}
            dims, shape = (0, 0, 0, self.kv_heads, self.group), (batch, self.kv_heads, self.group, queries, keys)
            return editor.shuffle(f"{self.name}.seen", mask, dims, shape, **split)
        moved: dict[str, Any] = {"second_transpose": [0, 1, 4, 2, 3]}  # a 1 at the end, then transposed to its place
        return editor.shared(
            ("with group", mask),
            lambda: editor.shuffle(f"{self.name}.seen", mask, (0, 0, 0, 0, 1), (batch, 1, 1, queries, keys), **moved),
        )

    def masked(self, scores: str, mask: str) -> str:
        editor, name, shape = self.editor, self.name, self.editor.shape(scores)
        if editor.dtype(mask) is not DType.BOOL:
            numbers = editor.shared(("float32", mask), lambda: editor.cast(f"{name}.mask32", mask, DType.FLOAT32))
            return editor.elementwise(f"{name}.masked", "SUM", scores, numbers)
        never = editor.constant(f"{name}.never", np.full((1,) * len(shape), _NEVER, np.float32))
        return editor.add(f"{name}.masked", "SELECT", [mask, scores, never], DType.FLOAT32, shape)


def scores_bytes(heads: int, keys: int) -> int:
    """Bytes of one layer's scores per query and slot, if the builder fuses nothing: once in float32, twice in half."""
    return heads * keys * (4 + 2 + 2)
