"""Which layers are quantized, and how. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tt_edge.compat import StrEnum
from tt_edge.config.base import JsonConfig
from tt_edge.errors import EngineError, InvalidInputError

#: The lowest compute capability that has a format's types, 89 for sm89; for all others it is 75.
FIRST_CAPABILITY = {"fp8": 89, "int4_awq": 80, "int4_wo": 80, "nvfp4": 100}


def check_capability(format: str, capability: str) -> None:
    """Raise ``EngineError`` for a format that a GPU of this compute capability, such as ``sm89``, does not support."""
    first, number = FIRST_CAPABILITY.get(format, 75), int(capability.removeprefix("sm"))
    if number < first:
        others = "an INT8 or INT4 format" if number >= FIRST_CAPABILITY["int4_wo"] else "an INT8 format"
        raise EngineError(
            f"{format} needs compute capability sm{first} or later, not {capability}; choose {others}, or another --engine target"
        )


class QuantFormat(StrEnum):
    """A format of linear layers."""

    #: Weights and inputs in E4M3, one scale each.
    FP8 = "fp8"
    #: Weights in INT8 with one scale per channel, inputs with one scale, outliers moved into the weights (SmoothQuant).
    INT8_SQ = "int8_sq"
    #: Only weights, in INT8, one scale per channel.
    INT8_WO = "int8_wo"
    #: Only weights, in INT4, one scale per group, channels scaled by the importance of their inputs (AWQ).
    INT4_AWQ = "int4_awq"
    #: Only weights, in INT4, a scale a group.
    INT4_WO = "int4_wo"
    #: Weights and inputs in E2M1 with an E4M3 scale for each 16 elements and one scale for all.
    NVFP4 = "nvfp4"

    @property
    def needs_data(self) -> bool:
        """Whether calibration runs the model on text: for ranges of inputs, or for AWQ's search."""
        return self not in (QuantFormat.INT8_WO, QuantFormat.INT4_WO)

    @property
    def first_capability(self) -> int:
        """The lowest compute capability that has the types: 89 is sm89."""
        return FIRST_CAPABILITY.get(self, 75)


#: Formats of a vision tower: its matrix products are large, so their inputs are quantized, too.
TOWER_FORMATS = (QuantFormat.FP8, QuantFormat.INT8_SQ)

#: In a rule: keep the layer in half precision.
KEEP = "none"


class LayerPlace(StrEnum):
    """Where a linear layer is in a model."""

    #: In the language part, or in a language model.
    LANGUAGE = "language"
    #: The language model head. Not quantized unless a rule names it.
    HEAD = "head"
    #: In the language part, of a few features in or out: coefficients, not matrices. Not quantized unless a rule names it.
    COEFFICIENTS = "coefficients"
    #: In a block of a vision tower.
    TOWER = "tower"
    #: Between tower and language part: a merger, a projector, a Q-Former. Not quantized unless a rule names it.
    PROJECTOR = "projector"


@dataclass(frozen=True)
class QuantConfig:
    """A recipe: the first of ``rules`` whose pattern matches a linear layer's name decides; without a match, ``format``.

    Patterns are shell-style (``*.down_proj``) over names such as ``model.layers.0.mlp.down_proj``; a rule's format may be
    ``none``. The language model head is not quantized unless a rule names it. ``group_size`` is INT4's.

    ``vision`` is the format of the linear layers in a vision tower's blocks, fp8 or int8_sq; rules come before it, and may name the
    layers of the projector, too. Without it, nothing of the vision part is quantized.
    """

    format: QuantFormat | None
    rules: tuple[tuple[str, str], ...] = ()
    group_size: int = 128
    vision: QuantFormat | None = None

    def __post_init__(self) -> None:
        if self.vision is not None and self.vision not in TOWER_FORMATS:
            raise InvalidInputError(
                f"quantization {self.vision!r} is not for vision towers; choose one of {', '.join(TOWER_FORMATS)}"
            )
        object.__setattr__(self, "vision", None if self.vision is None else QuantFormat(self.vision))
        known = [*QuantFormat, KEEP]
        if self.format is not None and self.format not in list(QuantFormat):
            raise InvalidInputError(f"quantization {self.format!r} is unknown; choose one of {', '.join(QuantFormat)}")
        object.__setattr__(self, "format", None if self.format is None else QuantFormat(self.format))
        rules = tuple((str(pattern), str(name)) for pattern, name in self.rules)
        for pattern, name in rules:
            if name not in known:
                raise InvalidInputError(
                    f"the rule for layers {pattern!r} says {name!r}; choose one of {', '.join(known)}"
                )
        object.__setattr__(self, "rules", rules)
        if self.group_size not in (32, 64, 128):
            raise InvalidInputError(f"group size {self.group_size} of INT4 is not one of 32, 64, 128")
        if not self.formats:
            raise InvalidInputError("the recipe quantizes nothing; give --quant a format, or a rule with one")

    @property
    def formats(self) -> set[QuantFormat]:
        """All formats that the recipe may choose."""
        named = {QuantFormat(name) for _, name in self.rules if name != KEEP}
        return named | {format for format in (self.format, self.vision) if format is not None}

    @property
    def name(self) -> str:
        """A name for the formats: ``int4_awq``, ``int4_awq+fp8`` if rules choose others, ``int4_awq, vision fp8`` for a tower's."""
        named = {QuantFormat(name) for _, name in self.rules if name != KEEP} - {self.format}
        language = "+".join([*([str(self.format)] if self.format else []), *sorted(named)])
        return ", ".join(filter(None, (language, f"vision {self.vision}" if self.vision else "")))

    def format_of(self, layer: str, place: LayerPlace = LayerPlace.LANGUAGE) -> QuantFormat | None:
        """The format of a linear layer, or ``None`` for half precision."""
        if self.vision is None and place in (LayerPlace.TOWER, LayerPlace.PROJECTOR):
            return None
        for pattern, name in self.rules:
            if fnmatchcase(layer, pattern):
                return None if name == KEEP else QuantFormat(name)
        return {LayerPlace.LANGUAGE: self.format, LayerPlace.TOWER: self.vision}.get(place)

    def check_capability(self, capability: str) -> None:
        """Raise ``EngineError`` for a format that a GPU of this compute capability, such as ``sm89``, does not compute."""
        for format in sorted(self.formats):
            check_capability(format, capability)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QuantConfig:
        if not isinstance(data, Mapping) or set(data) - {"format", "rules", "group_size", "vision"}:
            raise InvalidInputError(f"quantization {data!r} is not of the form format, rules, group_size, vision")
        try:
            return cls(
                data.get("format"), tuple(data.get("rules", ())), data.get("group_size", 128), data.get("vision")
            )
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"quantization {data!r} is malformed ({error})") from error

    @classmethod
    def parse(
        cls, format: str | None, rules: str | None, group_size: int = 128, vision: str | None = None
    ) -> QuantConfig | None:
        """From the command line: ``--quant``, ``--quant-layers "*.down_proj=fp8,*.o_proj=none"`` and ``--quant-vision``."""
        if format is None and rules is None and vision is None:
            return None
        pairs = []
        for part in (rules or "").split(","):
            pattern, equals, name = part.strip().partition("=")
            if part.strip() and not (pattern and equals and name):
                raise InvalidInputError(
                    f"--quant-layers has {part.strip()!r}; give PATTERN=FORMAT, e.g. *.down_proj=fp8"
                )
            if part.strip():
                pairs.append((pattern.strip(), name.strip()))
        return cls(format, tuple(pairs), group_size, vision)  # type: ignore[arg-type]


class Int4Gemm(StrEnum):
    """How INT4 linear layers are compiled."""

    #: NVIDIA's Int4GroupwiseGemmPlugin, where a layer fits it (groups of 128); only on the plugin backend.
    PLUGIN = "plugin"
    #: TensorRT's own blocked INT4, out of the box.
    OOTB = "ootb"


@dataclass(frozen=True)
class QuantizationConfig(JsonConfig):
    """How linear layers are compiled. ``recipe`` ``None``: as they are in the checkpoint."""

    recipe: QuantConfig | None = None
    int4_gemm: Int4Gemm = Int4Gemm.OOTB
