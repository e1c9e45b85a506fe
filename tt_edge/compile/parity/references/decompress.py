"""compressed-tensors' own library as the reference of its checkpoints, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tt_edge.compile.parity.references.dequantize import DenseLayer

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme

#: The oldest release that decompresses one layer's tensors by their scheme; transformers asks for it, too.
_OLDEST = (0, 15)


def library_version() -> str | None:
    """The version of the installed library; ``None`` where it is absent or too old."""
    try:
        version = metadata.version("compressed-tensors")
    except metadata.PackageNotFoundError:
        return None
    major, minor = (int(part) for part in version.split(".")[:2])
    return version if (major, minor) >= _OLDEST else None


class Decompressor:
    """Decompresses the layers of one checkpoint, whose quantization settings it is made from."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from compressed_tensors.quantization import QuantizationConfig

        self._config: QuantizationConfig = QuantizationConfig.model_validate(dict(settings))
        self._schemes = {target: scheme for scheme in self._config.config_groups.values() for target in scheme.targets}
        self._left_out = False

    def __str__(self) -> str:
        """The library, and what of the layers read so far it left out."""
        rest = " (layers with act-order by a second implementation of the format)" if self._left_out else ""
        return f"compressed-tensors {library_version()}{rest}"

    def layer(self, module: str, tensors: Mapping[str, Tensor]) -> DenseLayer | None:
        """The weight of a module, decompressed in float32, and the rounding of its input.

        ``None`` for a layer with act-order, which the library does not read since 0.15.
        """
        from compressed_tensors.compressors import BaseCompressor

        order = tensors.get("weight_g_idx")
        if order is not None and (order >= 0).all():
            self._left_out = True
            return None
        scheme = self._scheme_of(module)
        # In the scales' own type, bfloat16 as a rule, the products would be rounded.
        exact = {name: _exact(tensor) for name, tensor in tensors.items() if name != "bias"}
        compressor = BaseCompressor.get_value_from_registry(scheme.format or self._config.format)
        weight = compressor.decompress(exact, scheme)["weight"].float()
        return DenseLayer(weight, _input_rounding(scheme, tensors))

    def _scheme_of(self, module: str) -> QuantizationScheme:
        from compressed_tensors.utils.match import match_targets

        return self._schemes[match_targets(module, nn.Linear(1, 1, device="meta"), self._schemes)[0]]


def _exact(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _input_rounding(scheme: QuantizationScheme, tensors: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor] | None:
    """How the library rounds a layer's input. ``None`` where it does not, and for ranges that are measured per token: TensorRT
    computes these layers in half precision."""
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    args = scheme.input_activations
    if args is None or args.dynamic is True:
        return None
    if args.dynamic:  # "local": one static scale, and one for each group, as NVFP4 has them
        outer = tensors["input_global_scale"].float()
        # The format's scales are E4M3; older checkpoints do not say so.
        local = args.model_copy(update={"scale_dtype": args.scale_dtype or torch.float8_e4m3fn})

        def by_groups(x: Tensor) -> Tensor:
            scale, _ = compute_dynamic_scales_and_zp(x.float(), local, nn.Identity(), global_scale=outer)
            rounded: Tensor = fake_quantize(x.float(), scale, None, local, global_scale=outer)
            return rounded

        return by_groups
    given = tensors["input_scale"].float().reshape(1)
    return lambda x: fake_quantize(x.float(), given, None, args)
