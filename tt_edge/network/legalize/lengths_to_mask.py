"""Causal attention with key lengths, for TensorRT before 11.0."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.network.ir import Layer
from tt_edge.network.layers import ATTENTION_INPUTS
from tt_edge.network.legalize.editor import Editor
from tt_edge.network.legalize.rule import Rule
from tt_edge.tensorrt_features import ATTENTION_LENGTHS

_LENGTHS = ATTENTION_INPUTS.index("key_value_lengths")


class LengthsToMask(Rule):
    """Replaces the causal diagonal and the lengths by one boolean mask, which the layers share.

    Before::

        1. y = attention(q, K, V, key_value_lengths=lengths, LOWER_RIGHT)    q [B, H, S, D], K [B, Hkv, T, D], lengths [B]

    After::

        1. first = lengths - S                                              [B, 1, 1, 1], once for all layers
        2. last = first + (0 … S - 1)                                       [B, 1, S, 1]: the last key visible to a query
        3. mask = not (0 … T - 1) > last                                    [B, 1, S, T]
        4. y = attention(q, K, V, mask=mask, NONE)

    Without lengths, ``first`` is T - S (LOWER_RIGHT) or 0 (UPPER_LEFT). An existing boolean mask is combined with this one; one
    of numbers keeps them where this one is true, and has the lowest number elsewhere. B and S may be dynamic, and T if there are
    no lengths.
    """

    feature = ATTENTION_LENGTHS

    def rewrite(self, layer: Layer, editor: Editor) -> bool:
        if layer.kind != "ATTENTION":
            return False
        kind = str(layer.attributes.get("causal_kind", "NONE"))
        query, key, _, mask, _, query_lengths, lengths = layer.inputs
        assert query is not None
        assert key is not None
        forms = {layer.attributes.get(name, "PADDED_BHND") for name in ("query_form", "key_value_form")}
        if query_lengths is not None or forms != {"PADDED_BHND"}:
            raise EngineError(
                f"attention {layer.name!r} has packed queries or query lengths, which begin with {self.feature.release}; "
                "build there"
            )
        if kind == "NONE" and lengths is None:
            return False
        seen = editor.shared(
            ("seen", kind, lengths, _keys(editor, key)), lambda: _seen(editor, layer.name, query, key, lengths, kind)
        )
        if mask is not None and editor.dtype(mask) is not DType.BOOL:
            seen = editor.shared(("both", mask, seen), lambda: _numbers(editor, layer.name, mask, seen))
        elif mask is not None:
            seen = editor.shared(
                ("both", mask, seen), lambda: editor.elementwise(f"{layer.name}.both", "AND", mask, seen)
            )
        inputs = list(layer.inputs)
        inputs[ATTENTION_INPUTS.index("mask")] = seen
        inputs[_LENGTHS] = None
        attributes = {**layer.attributes, "causal_kind": "NONE"}
        editor.keep(Layer(layer.name, layer.kind, inputs, list(layer.outputs), attributes))
        return True


def _numbers(editor: Editor, name: str, mask: str, seen: str) -> str:
    """The numbers of ``mask`` ``[B or 1, H or 1, S, T]`` where a key is ``seen``, and elsewhere the lowest number."""
    dtype, shape, other = editor.dtype(mask), editor.shape(mask), editor.shape(seen)
    finfo: Any = ml_dtypes.finfo  # it is not typed
    lowest = np.full((1, 1, 1, 1), finfo(dtype.numpy).min, dtype.numpy)
    never = editor.constant(f"{name}.never", lowest)
    joined = [a if b == 1 else b for a, b in zip(shape, other, strict=True)]
    return editor.add(f"{name}.both", "SELECT", [seen, mask, never], dtype, joined)


def _keys(editor: Editor, key: str) -> object:
    """A key for the size of the mask's last dimension: the number of keys or, if that is dynamic, the key tensor's name."""
    count = editor.shape(key)[2]
    return count if count != -1 else key


def _seen(editor: Editor, name: str, query: str, key: str, lengths: str | None, kind: str) -> str:
    """The mask ``[B, 1, S, T]``, or ``[1, 1, S, T]`` without lengths."""
    width = editor.size(name, query, 2)
    count = editor.shape(key)[2]
    if count == -1:
        number = editor.size(f"{name}.key", key, 2)
        keys = editor.shuffle(f"{name}.keys", editor.counted(f"{name}.key", number), (1, 1, 1, -1), (1, 1, 1, -1))
    else:
        keys = editor.constant(f"{name}.keys", np.arange(count, dtype=np.int32).reshape(1, 1, 1, count))
    last = editor.shuffle(f"{name}.steps", editor.counted(name, width), (1, 1, -1, 1), (1, 1, -1, 1))
    if kind == "NONE":  # only lengths: every query sees the same keys
        assert lengths is not None
        one = editor.constant(f"{name}.last_of_one", np.ones(1, np.int32))
        ends = editor.elementwise(f"{name}.ends", "SUB", lengths, one)
        last = editor.shuffle(f"{name}.last", ends, (-1, 1, 1, 1), (-1, 1, 1, 1))
    elif kind == "LOWER_RIGHT":
        steps = editor.cast(f"{name}.width", width, DType.INT32)
        if lengths is None:
            total = (
                editor.cast(f"{name}.key_count", editor.size(f"{name}.key", key, 2), DType.INT32)
                if count == -1
                else editor.constant(f"{name}.key_count", np.full(1, count, np.int32))
            )
        else:
            total = lengths
        first = editor.elementwise(f"{name}.first", "SUB", total, steps)
        starts = editor.shuffle(f"{name}.starts", first, (-1, 1, 1, 1), (-1, 1, 1, 1))
        last = editor.elementwise(f"{name}.last", "SUM", starts, last)
    elif lengths is not None:
        raise EngineError(
            f"attention {name!r} has lengths and an upper-left diagonal, which needs {ATTENTION_LENGTHS.release}; build there"
        )
    hidden = editor.elementwise(f"{name}.hidden", "GREATER", keys, last)
    return editor.add(f"{name}.mask", "UNARY", [hidden], DType.BOOL, editor.shape(hidden), op="NOT")
