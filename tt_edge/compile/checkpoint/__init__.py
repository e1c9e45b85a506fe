"""Reading Hugging Face checkpoints: folder or hub id, weights in full precision or quantized, tokenizer and processor."""

from tt_edge.compile.checkpoint.checkpoint import Checkpoint
from tt_edge.compile.vision.adapters import vila_checkpoint  # noqa: F401  registers its kind of checkpoint

__all__ = ["Checkpoint"]
