"""Options of a compile that encoder-decoders do not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tt_edge.compile.checkpoint.load_quantized import quantized_layers
from tt_edge.config import Backend, CompileConfig
from tt_edge.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_options(model: PreTrainedModel, config: CompileConfig) -> None:
    """Raise ``UnsupportedModelError`` for options of ``config`` that an encoder-decoder cannot be compiled with."""
    name = type(model).__name__
    if config.attention.backend is Backend.PLUGIN:
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder, and AttentionPlugin has no attention to a source; compile with --backend native or sdpa"
        )
    if quantized_layers(model):
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder, and those are not read from quantized checkpoints; give one in full precision, and "
            "--quant"
        )
    recipe = config.quantization.recipe
    if recipe is None:
        return
    if recipe.vision is not None:
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder, of which --quant quantizes both halves; omit --quant-vision"
        )
    if any(type(module).__name__.endswith("SparseMLP") for module in model.modules()):
        raise UnsupportedModelError(
            f"{name} is a mixture of experts, and calibration does not reach all of them; omit --quant"
        )
