"""TensorRT Model Optimizer's unified export: ``hf_quant_config.json`` beside the weights.

By ``quant_algo``, a layer has ``weight`` and ``weight_scale`` and

* ``FP8``: ``[N, K]`` E4M3, ``[]``; ``input_scale`` ``[]``. ``FP8_PER_CHANNEL_PER_TOKEN``: scale ``[N]``, no ``input_scale``;
* ``W8A16``, ``W8A8_SQ_PER_CHANNEL``: ``[N, K]`` int8, ``[N]``; the latter with ``input_scale``;
* ``W4A16_AWQ``: ``[N/2, K]`` uint8, the even output feature in the low nibble, two's complement; ``[N, K/group]``;
* ``NVFP4``, ``NVFP4_AWQ``, ``W4A16_NVFP4``: ``[N, K/2]`` uint8, ``[N, K/16]`` E4M3; ``weight_scale_2`` ``[]``; the first two with
  ``input_scale``.

``pre_quant_scale`` ``[K]`` exists only if it could not be folded into the preceding layer. ``MIXED_PRECISION`` lists the
algorithm of each layer in ``quantized_layers``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tt_edge.compile.checkpoint.prequantized.detect import Config
from tt_edge.compile.checkpoint.prequantized.reader import LinearReader, check_groups
from tt_edge.compile.quantize.quantized_weight import QuantizedWeight, WeightFormat
from tt_edge.errors import InvalidInputError, UnsupportedModelError

_FORMATS = {
    "FP8": WeightFormat.FP8,
    "FP8_PER_CHANNEL_PER_TOKEN": WeightFormat.FP8,
    "W8A16": WeightFormat.INT8,
    "W8A8_SQ_PER_CHANNEL": WeightFormat.INT8,
    "W4A16_AWQ": WeightFormat.INT4,
    "NVFP4": WeightFormat.NVFP4,
    "NVFP4_AWQ": WeightFormat.NVFP4,
    "W4A16_NVFP4": WeightFormat.NVFP4,
}
_INPUT_SCALE = ("FP8", "W8A8_SQ_PER_CHANNEL", "NVFP4", "NVFP4_AWQ")
_DYNAMIC_INPUT = ("FP8_PER_CHANNEL_PER_TOKEN", "NVFP4", "NVFP4_AWQ")


class ModeloptReader(LinearReader):
    """Reads layers of the checkpoint's one algorithm or, in mixed precision, each of its own."""

    tensors = frozenset({"weight", "weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale"})

    def __init__(self, config: Config) -> None:
        algorithm = config.get("quant_algo")  # none: only the KV cache is quantized
        mixed = algorithm == "MIXED_PRECISION"
        self._of_layers: Config = config.get("quantized_layers", {}) if mixed else {}
        self._of_others: Config | None = config if algorithm and not mixed else None
        for settings in [*self._of_layers.values(), *filter(None, [self._of_others])]:
            if (algorithm := settings.get("quant_algo")) not in _FORMATS:
                raise UnsupportedModelError(
                    f"modelopt's algorithm {algorithm} is not read; use one of {', '.join(_FORMATS)}"
                )

    def read(self, layer: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """See ``LinearReader.read``."""
        settings = self._of_layers.get(layer, self._of_others)
        if settings is None:
            raise InvalidInputError("hf_quant_config.json does not name its algorithm; download the checkpoint again")
        algorithm = settings["quant_algo"]
        format_ = _FORMATS[algorithm]
        values, scale = tensors["weight"], tensors["weight_scale"]
        if format_ is WeightFormat.INT4:
            check_groups(values.shape[1], scale.shape[1], settings.get("group_size", values.shape[1] // scale.shape[1]))
            values = _pairs_of_columns(values)
        return QuantizedWeight(
            format_,
            values,
            scale.reshape(1) if scale.ndim == 0 else scale,
            global_scale=tensors["weight_scale_2"].reshape(()) if format_ is WeightFormat.NVFP4 else None,
            input_scale=tensors["input_scale"].float().reshape(()) if algorithm in _INPUT_SCALE else None,
            dynamic_input=algorithm in _DYNAMIC_INPUT,
            pre_quant_scale=tensors.get("pre_quant_scale"),
        )


def _pairs_of_columns(pairs_of_rows: Tensor) -> Tensor:
    """Repack ``[N/2, K]`` uint8, two rows per byte, to ``[N, K/2]``, two columns per byte, the even one in the low nibble."""
    half, k = pairs_of_rows.shape
    even, odd = pairs_of_rows[:, 0::2], pairs_of_rows[:, 1::2]
    packed = pairs_of_rows.new_empty(half, 2, k // 2)
    packed[:, 0] = even.bitwise_and(0xF).bitwise_or_(odd << 4)
    packed[:, 1] = (even >> 4).bitwise_or_(odd.bitwise_and(0xF0))
    return packed.flatten(0, 1)
