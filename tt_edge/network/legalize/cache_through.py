"""A KV cache that passes through the network, for TensorRT before 10.15."""

from __future__ import annotations

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.network.ir import Attribute, Layer
from tt_edge.network.legalize.editor import Editor
from tt_edge.network.legalize.rule import Rule
from tt_edge.tensorrt_features import KV_CACHE_UPDATE


class CacheThrough(Rule):
    """Replaces an update in place by a scatter, whose result is a new cache.

    Before::

        1. present = kv_cache_update(past, k, write_indices)      past [B, H, T, D], k [B, H, S, D], in place

    After::

        1. at = concatenate(b, h, write_indices[b] + s)           [B, H, S, 3], once for all layers with this many heads
        2. present = scatter(past, at, k), ND                     [B, H, T, D], not in place

    So inputs and outputs are two buffers that are swapped after every step: the contract's ``kv_in_place`` is False.
    Every position is inside the cache: sessions refuse others before anything runs.
    """

    feature = KV_CACHE_UPDATE

    def rewrite(self, layer: Layer, editor: Editor) -> bool:
        if layer.kind != "KV_CACHE_UPDATE":
            return False
        cache, update, indices = (str(name) for name in layer.inputs[:3])
        if layer.attributes.get("update_form", "PADDED_BHND") != "PADDED_BHND":
            raise EngineError(
                f"layer {layer.name!r} updates a cache with packed tokens, which begins with TensorRT 11.0"
            )
        heads = editor.shape(cache)[1]
        places = editor.shared(("places", indices, heads), lambda: _places(editor, layer.name, update, indices, heads))
        attributes: dict[str, Attribute] = {"mode": "ND", "axis": 0}
        inputs: list[str | None] = [cache, places, update]
        editor.keep(Layer(layer.name, "SCATTER", inputs, list(layer.outputs), attributes))
        return True


def _places(editor: Editor, name: str, update: str, indices: str, heads: int) -> str:
    """The cache index of each token of ``update``: int32 ``[B, H, S, 3]``."""

    def counted(axis: int, dims: tuple[int, ...]) -> str:
        numbers = editor.counted(f"{name}.axis{axis}", editor.size(name, update, axis))
        return editor.shuffle(f"{name}.at{axis}", numbers, dims, dims)

    starts = editor.shuffle(f"{name}.starts", indices, (-1, 1, 1, 1), (-1, 1, 1, 1))
    token = editor.elementwise(f"{name}.token", "SUM", starts, counted(2, (1, 1, -1, 1)))  # [B, 1, S, 1]
    head = editor.constant(f"{name}.heads", np.arange(heads, dtype=np.int32).reshape(1, heads, 1, 1))
    zero = editor.constant(f"{name}.zero", np.zeros((1, 1, 1, 1), np.int32))
    # Zeros of shape [B, H, S, 1]: adding them broadcasts each of the three parts to that shape.
    none = editor.elementwise(f"{name}.none", "PROD", editor.elementwise(f"{name}.all", "SUM", token, head), zero)
    parts = [
        editor.elementwise(f"{name}.place{i}", "SUM", part, none)
        for i, part in enumerate((counted(0, (-1, 1, 1, 1)), head, token))
    ]
    assert editor.dtype(parts[0]) is DType.INT32
    return editor.joined(f"{name}.places", parts)
