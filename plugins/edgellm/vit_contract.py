"""NVIDIA's ``ViTAttentionPlugin``, as data. Torch-free.

Attention of vision towers: every token sees those of its own segment; the plugin has no cache and applies no rotation.
It registers as version "1" in namespace "". Sources: TensorRT-Edge-LLM v0.9.1 (``cpp/plugins/vitAttentionPlugin``), which has the
first three fields, and the operator schemas of the ``tensorrt-edgellm`` 0.11.0 package, which add scales of FP8 operands.
Inputs and outputs are the same in both. 0.4 has no such plugin.
"""

from __future__ import annotations

from tt_edge.dtypes import DType
from tt_edge.plugins.edgellm.contracts import FieldType, Operand, Value

NAME, VERSION, NAMESPACE = "ViTAttentionPlugin", "1", ""

#: The first generation that has it; later ones have the same inputs and outputs.
SINCE = "0.9.1"

#: Head sizes that the libraries have kernels for (``canImplementViT`` and ``ContextFMHARunner::canImplement`` of 0.9.1).
HEAD_SIZES = (64, 72, 80, 128)

#: Names of a creator's fields: in 0.9.1, and in 0.11.
FIELDS = (
    frozenset({"num_heads", "head_size", "attention_scale"}),
    frozenset({"num_heads", "head_size", "attention_scale", "qkv_scales"}),
)

_HEADS = ("tokens", "heads", "head_size")
INPUTS = (
    Operand("q", None, _HEADS, "queries of all tokens, rotated"),
    Operand("k", None, _HEADS, "keys, rotated"),
    Operand("v", None, _HEADS, "values"),
    Operand("cu_seqlens", DType.INT32, ("segments+1",), "where each segment's tokens begin, and the end"),
    Operand("max_seqlen_carrier", DType.INT32, ("longest",), "its length: tokens of the longest segment, or more"),
)
OUTPUTS = (Operand("attention", None, _HEADS, "result"),)


def field_values(num_heads: int, head_size: int, attention_scale: float) -> dict[str, tuple[FieldType, Value]]:
    """The fields to create one layer's plugin with, by name; FP8 scales keep the plugin's own default."""
    return {
        "num_heads": (FieldType.INT32, num_heads),
        "head_size": (FieldType.INT32, head_size),
        "attention_scale": (FieldType.FLOAT32, attention_scale),
    }
