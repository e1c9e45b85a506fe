"""Quantization as a stage of a compile."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from torch import Tensor
from transformers import PreTrainedModel

from tt_edge.bundle.writer import BundleWriter
from tt_edge.compile.checkpoint.prequantized import detect, read_quantized
from tt_edge.compile.quantize.calibrate import STATISTICS_FILE, calibrate, from_bytes, to_bytes
from tt_edge.compile.quantize.data import Batch, Batches, CalibrationData, load_batches
from tt_edge.compile.quantize.kv_cache import QKVScales, calibrate_kv_cache, scales_of_checkpoint
from tt_edge.compile.quantize.layers import quantize_model
from tt_edge.compile.quantize.pictures import CalibrationPictures
from tt_edge.errors import InvalidInputError
from tt_edge.quant_config import QuantConfig

_LOGGER = logging.getLogger("tt_edge")

#: Quantizes a model in place and writes the statistics into the bundle; the number of linear layers by format.
QuantizeStage: TypeAlias = Callable[[PreTrainedModel, BundleWriter], dict[str, int]]


def quantize_checkpoint(
    source: str, recipe: QuantConfig, data: CalibrationData | None, tokenizer: str, show: bool
) -> QuantizeStage:
    """The stage for a checkpoint, calibrated on ``data`` (default: the built-in text) in the words of ``tokenizer``.

    Raises ``InvalidInputError`` now for a checkpoint that is quantized already.
    """
    from tt_edge.compile.checkpoint.prequantized import check_not_quantized

    if Path(source).is_dir():
        check_not_quantized(source, str(recipe.format or "with rules"))
    data = data or CalibrationData()

    def stage(model: PreTrainedModel, writer: BundleWriter) -> dict[str, int]:
        from transformers import AutoTokenizer

        batches: Batches | tuple[()] = ()
        if any(format.needs_data for format in recipe.formats):
            pictures = CalibrationPictures.of(model, writer.path)
            batches = load_batches(data, AutoTokenizer.from_pretrained(tokenizer), pictures)
            if pictures is not None and not batches.have_pictures:
                _LOGGER.warning(
                    "the language part is calibrated on text alone, and image tokens have other ranges; give --calib-data with "
                    "images (docs/vision.md)"
                )
        return _quantize(model, recipe, batches, data, writer, show)

    return stage


def quantize_with(recipe: QuantConfig, batches: Sequence[Tensor]) -> QuantizeStage:
    """The stage for a model in memory, calibrated on ``batches`` of token ids ``[B, S]``."""
    if not batches and any(format.needs_data for format in recipe.formats):
        raise InvalidInputError("the recipe needs calibration data; pass batches of token ids")
    given = [{"input_ids": ids} for ids in batches]
    return lambda model, writer: _quantize(model, recipe, given, CalibrationData(), writer, show=False)


def _quantize(
    model: PreTrainedModel,
    recipe: QuantConfig,
    batches: Sequence[Batch],
    data: CalibrationData,
    writer: BundleWriter,
    show: bool,
) -> dict[str, int]:
    statistics = calibrate(model, recipe, batches, device=data.device, cache=data.cache, show=show)
    writer.write_bytes(STATISTICS_FILE, to_bytes(statistics))
    formats = quantize_model(model, recipe, statistics)
    return dict(Counter(str(format) for format in formats.values()))


def quantize_again(model: PreTrainedModel, recipe: QuantConfig, statistics: bytes) -> None:
    """Quantize the checkpoint's model as it was when a bundle was compiled, from the ``statistics`` in the bundle."""
    quantize_model(model, recipe, from_bytes(statistics))


#: From a model, before its linear layers are quantized: the scales of its FP8 KV cache.
KVCacheStage: TypeAlias = Callable[[PreTrainedModel, BundleWriter], list[QKVScales]]


def kv_cache_of_checkpoint(source: str, data: CalibrationData | None, tokenizer: str) -> KVCacheStage:
    """The scales that the checkpoint brings, or else those that calibration on ``data`` gives."""

    def stage(model: PreTrainedModel, writer: BundleWriter) -> list[QKVScales]:
        from transformers import AutoTokenizer

        if Path(source).is_dir() and detect(source) is not None and (found := read_quantized(source).kv_scales):
            return scales_of_checkpoint(found, model.config.get_text_config().num_hidden_layers)
        pictures = CalibrationPictures.of(model, writer.path)
        batches = load_batches(data or CalibrationData(), AutoTokenizer.from_pretrained(tokenizer), pictures)
        return calibrate_kv_cache(model, batches)

    return stage
