"""What a compiled vision network takes and gives. Torch-free.

Inputs have one dynamic dimension, the first, which counts ``VisionGeometry.unit``: image tokens, windows or tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tt_edge.contract import ShapeRange, TensorSpec
from tt_edge.errors import BundleError

#: Symbolic dimensions of the inputs of vision networks.
IMAGE_TOKENS, WINDOWS, TILES = "image_tokens", "windows", "tiles"


@dataclass(frozen=True)
class VisionGeometry:
    """Sizes from which the host computes a vision network's inputs.

    ``unit`` is what the dynamic dimension counts; a unit makes ``tokens_a_unit`` rows of features (of a window, the most).
    For towers that take patches: ``merge_size`` squared patches of ``patch_dim`` numbers are a token; ``window_tokens`` is how
    many tokens attend to each other in layers with windows, 0 without; ``position_table_side`` is the side of a square table of
    learned positions, 0 without. For towers that take tiles: ``tile_size`` is ``(height, width)``.
    """

    family: str
    unit: str
    tokens_a_unit: int
    merge_size: int = 0
    patch_dim: int = 0
    window_tokens: int = 0
    position_table_side: int = 0
    tile_size: tuple[int, int] | None = None

    @property
    def patches_a_unit(self) -> int:
        return self.tokens_a_unit * self.merge_size**2

    def units(self, tokens: int) -> int:
        """Units that are enough for ``tokens`` image tokens; windows may be half empty at the images' edges."""
        if self.unit == WINDOWS:
            return max(1, -(-2 * tokens // self.tokens_a_unit))
        return max(1, tokens // self.tokens_a_unit)


@dataclass(frozen=True)
class VisionContract:
    """Inputs, outputs and limits of a compiled vision network; has what an engine is built and loaded by.

    ``outputs`` are tables of features by the names of the language network's inputs. Limits are image tokens in one call.
    """

    geometry: VisionGeometry
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    min_image_tokens: int
    max_image_tokens: int

    @property
    def max_units(self) -> int:
        return self.geometry.units(self.max_image_tokens)

    @property
    def largest(self) -> dict[str, int]:
        """The largest size of every symbolic dimension."""
        units = self.max_units
        return {self.geometry.unit: units, "rows": units * self.geometry.tokens_a_unit}

    def profiles(self) -> tuple[dict[str, ShapeRange], ...]:
        """One optimization profile."""
        geometry = self.geometry
        most = self.max_units
        least = min(most, max(1, self.min_image_tokens // geometry.tokens_a_unit))
        sizes = (least, max(least, most // 2), most)
        unit = geometry.unit
        return ({t.name: ShapeRange(*(t.resolve(**{unit: size}) for size in sizes)) for t in self.inputs},)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VisionContract:
        """Rebuild from ``to_dict``'s form. Raises ``BundleError`` when a field is missing or of a wrong type."""
        try:
            geometry = dict(data["geometry"])
            tile = geometry.pop("tile_size")
            for key, value in geometry.items():
                if not isinstance(value, str if key in ("family", "unit") else int) or isinstance(value, bool):
                    raise ValueError(f"{key} is {value!r}")
            if geometry["unit"] not in (IMAGE_TOKENS, WINDOWS, TILES):
                raise ValueError(f"unit is {geometry['unit']!r}")
            return cls(
                geometry=VisionGeometry(**geometry, tile_size=None if tile is None else (int(tile[0]), int(tile[1]))),
                inputs=tuple(TensorSpec.from_dict(t) for t in data["inputs"]),
                outputs=tuple(TensorSpec.from_dict(t) for t in data["outputs"]),
                min_image_tokens=int(data["min_image_tokens"]),
                max_image_tokens=int(data["max_image_tokens"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BundleError(f"vision contract is malformed ({error!r}); compile the model again") from error
