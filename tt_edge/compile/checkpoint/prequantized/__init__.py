"""Reading quantized Hugging Face checkpoints directly, without converting to full precision.

    detected = detect(folder)                  # None for an ordinary checkpoint
    checkpoint = read_quantized(folder)
    checkpoint.linears["model.layers.0.self_attn.q_proj"]   # QuantizedWeight, read on access
    for name, tensor in checkpoint.plain_tensors(): ...     # norms, embeddings, biases, unquantized layers
    checkpoint.kv_scales["model.layers.0.self_attn"]        # of an FP8 KV cache

Supported formats, one module each: AWQ (GEMM layout), GPTQ (also with act-order), compressed-tensors, modelopt, and FP8
with a scale per block.

A layer is quantized if it has the tensors of a quantized layer. The lists of excluded modules are not used: their patterns
have a different meaning in every format.

TensorRT's INT4 has no zero points. A layer whose zero points are all 8, the middle, is symmetric and stays INT4. Any other
layer, as in most AWQ checkpoints, becomes INT8 with the same scales: ``code - zero_point`` lies in -15 to 15, so the values
stay exact, but half of the memory saved is lost.
"""

from tt_edge.compile.checkpoint.prequantized.checkpoint import KVScales, QuantizedCheckpoint, read_quantized
from tt_edge.compile.checkpoint.prequantized.detect import QuantizedFormat, detect

__all__ = ["KVScales", "QuantizedCheckpoint", "QuantizedFormat", "detect", "read_quantized"]
