"""The computation of NVIDIA's ViTAttentionPlugin."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tt_edge.errors import InvalidInputError
from tt_edge.network.plugins import plugin_fields
from tt_edge.network.reference.attention import attend
from tt_edge.network.reference.registry import BoundLayer, Compute


def vit_attention_plugin(layer: BoundLayer) -> Compute:
    """Attention within each segment (``plugins/edgellm/vit_contract.py``). Tokens after the last segment become zeros."""
    fields = {name: value for name, (_, value) in plugin_fields(layer.layer).items()}
    scale = np.float32(fields["attention_scale"][0])
    readers, write = [layer.reader(index) for index in range(3)], layer.writer()

    def compute(q: np.ndarray, k: np.ndarray, v: np.ndarray, cu_seqlens: np.ndarray, carrier: np.ndarray) -> np.ndarray:
        queries, keys, values = (read(x) for read, x in zip(readers, (q, k, v), strict=True))
        sizes = np.diff(cu_seqlens)
        if cu_seqlens[0] or (sizes < 0).any() or cu_seqlens[-1] > len(queries):
            raise InvalidInputError(f"{layer} is given the offsets {cu_seqlens.tolist()} for {len(queries)} tokens")
        if sizes.max(initial=0) > len(carrier):
            raise InvalidInputError(
                f"{layer} is given a segment of {sizes.max()} tokens, and told of {len(carrier)} at most"
            )
        out = np.zeros(queries.shape, np.float32)
        for first, end in pairwise(cu_seqlens.tolist()):
            q, k, v = (x[first:end].swapaxes(0, 1) for x in (queries, keys, values))  # [H, L, D]
            out[first:end] = attend(q * scale, k, v, None, None, True, None).swapaxes(0, 1)
        return write(out)

    return compute
