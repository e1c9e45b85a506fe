"""Quantization as a stage of a compile."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.prequantized import read_quantized
from tt_edge.compile.quantize.calibrate import calibrate, from_bytes, to_bytes
from tt_edge.compile.quantize.data import Batch, CalibrationData, load_batches
from tt_edge.compile.quantize.kv_cache import QKVScales, calibrate_kv_cache, scales_of_checkpoint
from tt_edge.compile.quantize.layers import layers_to_quantize, quantize_model
from tt_edge.compile.quantize.pictures import CalibrationPictures
from tt_edge.compile.quantize.sources.batches import SourceBatches
from tt_edge.compile.vision.crossed.reference import is_crossed
from tt_edge.config.quantization import QuantConfig
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.text.tokenizer import Files

_LOGGER = logging.getLogger("tt_edge")


class Calibration(ABC):
    """What a compile calibrates on. ``data`` also says on which device, and where results are kept."""

    data: CalibrationData

    @abstractmethod
    def check(self, recipe: QuantConfig) -> None:
        """Raise ``InvalidInputError`` for a recipe that cannot be calibrated; called before a model is loaded."""

    @abstractmethod
    def batches(self, model: PreTrainedModel, files: Files, *, need_pictures: bool = False) -> Sequence[Batch]:
        """Batches of model inputs. ``files`` are the tokenizer and processor files that the bundle will have.

        Raises ``InvalidInputError`` where a batch ``need``s ``pictures``, to calibrate a vision tower or layers that attend to
        images, and none has any.
        """

    def kv_scales(self, model: PreTrainedModel, files: Files) -> list[QKVScales]:
        """Scales of an FP8 KV cache, calibrated before the model's linear layers are quantized."""
        return calibrate_kv_cache(model, self.batches(model, files))


class CheckpointCalibration(Calibration):
    """For a checkpoint: ``data`` (default: the built-in text), tokenized with the tokenizer of the checkpoint ``tokenizer``."""

    def __init__(self, checkpoint: Checkpoint, tokenizer: Checkpoint, data: CalibrationData | None) -> None:
        self._checkpoint, self._tokenizer, self.data = checkpoint, tokenizer, data or CalibrationData()

    def check(self, recipe: QuantConfig) -> None:
        self._checkpoint.check_not_quantized(str(recipe.format or "with rules"))

    def batches(self, model: PreTrainedModel, files: Files, *, need_pictures: bool = False) -> Sequence[Batch]:
        if model.config.is_encoder_decoder:
            return SourceBatches.of(model, files, self._tokenizer, self.data)
        pictures = CalibrationPictures.of(model, files)
        batches = load_batches(self.data, self._tokenizer.tokenizer, pictures)
        if need_pictures and not batches.have_pictures:
            raise InvalidInputError(
                "--quant-vision, and layers of the language part that attend to images, are calibrated on images, and "
                f"{self.data.source} has none; give --calib-data with images, or omit it for the built-in set"
            )
        if pictures is not None and not batches.have_pictures:
            _LOGGER.warning(
                "the language part is calibrated on text only, and image tokens have other ranges; give --calib-data with "
                "images (docs/how_to/vision.md)"
            )
        return batches

    def kv_scales(self, model: PreTrainedModel, files: Files) -> list[QKVScales]:
        """The scales stored in the checkpoint, or else those from calibration."""
        if self._checkpoint.quantization is not None:
            found = read_quantized(self._checkpoint.folder).kv_scales
            if found:
                return scales_of_checkpoint(found, model.config.get_text_config().num_hidden_layers)
        return super().kv_scales(model, files)


class GivenBatches(Calibration):
    """For a model in memory: batches of token ids ``[B, S]``."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._batches, self.data = batches, CalibrationData()

    def check(self, recipe: QuantConfig) -> None:
        if not self._batches and any(format.needs_data for format in recipe.formats):
            raise InvalidInputError("the recipe needs calibration data; pass batches of token ids")

    def batches(self, model: PreTrainedModel, files: Files, *, need_pictures: bool = False) -> Sequence[Batch]:
        if need_pictures:
            raise InvalidInputError(
                "a vision tower, and layers that attend to images, are calibrated on images, and batches of token ids have none; "
                "compile a checkpoint"
            )
        return [{"input_ids": ids} for ids in self._batches]


def quantize(
    model: PreTrainedModel, recipe: QuantConfig, calibration: Calibration, files: Files, *, show: bool
) -> tuple[dict[str, int], bytes]:
    """Quantize a model in place. Returns the number of linear layers by format, and the statistics for ``quantize_again``."""
    layers_to_quantize(model, recipe)  # refuses what cannot be, before data is prepared
    needed = any(format.needs_data for format in recipe.formats)
    need_pictures = recipe.vision is not None or is_crossed(model)
    batches = calibration.batches(model, files, need_pictures=need_pictures) if needed else ()
    data = calibration.data
    statistics = calibrate(model, recipe, batches, device=data.device, cache=data.cache, show=show)
    stored = to_bytes(statistics)
    formats = quantize_model(model, recipe, statistics)
    return dict(Counter(str(format) for format in formats.values())), stored


def quantize_again(model: PreTrainedModel, recipe: QuantConfig, statistics: bytes) -> None:
    """Quantize the checkpoint's model as it was when a bundle was compiled, from the ``statistics`` in the bundle."""
    quantize_model(model, recipe, from_bytes(statistics))
