"""Loading a Hugging Face checkpoint, from a local folder or by hub id."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tt_edge.compile.checkpoint.checkpoint import Checkpoint
from tt_edge.config import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(source: Checkpoint | str | os.PathLike[str], precision: Precision) -> PreTrainedModel:
    """Load a causal language model, or a vision-language model, in ``precision``, in evaluation mode, on the CPU.

    The linear layers of a quantized checkpoint stay quantized (``load_quantized``).

    ``source`` is an opened checkpoint, or what ``Checkpoint.open`` takes. Raises ``InvalidInputError`` for a checkpoint that is
    not there or is damaged and ``UnsupportedModelError`` for one that is not a causal language model of transformers.
    """
    return Checkpoint.open(source).load(precision)
