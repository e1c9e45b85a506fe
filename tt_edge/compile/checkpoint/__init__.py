"""Reading Hugging Face checkpoints: folder or hub id, weights in full precision or quantized, tokenizer and processor."""

from tt_edge.compile.checkpoint.checkpoint import Checkpoint

__all__ = ["Checkpoint"]
