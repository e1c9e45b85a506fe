"""Quantized checkpoints of the Hugging Face hub, read as they are: never through full precision.

    detected = detect(folder)                  # None for an ordinary checkpoint
    checkpoint = read_quantized(folder)
    checkpoint.linears["model.layers.0.self_attn.q_proj"]   # QuantizedWeight, read now
    for name, tensor in checkpoint.plain_tensors(): ...     # norms, embeddings, biases, layers left alone
    checkpoint.kv_scales["model.layers.0.self_attn"]        # of an FP8 KV cache

Read are AWQ (GEMM layout), GPTQ (act-order too), compressed-tensors and modelopt; one module each.

Which layers are quantized is read off the tensors that they have, not off the lists of excluded modules, whose patterns
mean something else in every format.

TensorRT's INT4 has no zero points. A layer whose zero points are all in the middle, 8, is symmetric and stays INT4. Any
other one, which is most of AWQ, becomes INT8 with the same scales: ``code - zero_point`` lies in -15 to 15, so nothing
is lost but half of the memory saved.
"""

from tt_edge.compile.checkpoint.prequantized.checkpoint import KVScales, QuantizedCheckpoint, read_quantized
from tt_edge.compile.checkpoint.prequantized.detect import QuantizedFormat, detect

__all__ = ["KVScales", "QuantizedCheckpoint", "QuantizedFormat", "detect", "read_quantized"]
