"""What a compiled vision network takes and gives. Torch-free.

Inputs have one dynamic dimension, the first, which counts ``VisionGeometry.unit``: image tokens, windows or tiles. Those of
``RAGGED_INPUTS`` have one of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tt_edge.contract import ShapeRange, TensorSpec
from tt_edge.errors import BundleError

#: Symbolic dimensions of the inputs of vision networks: what their first counts.
IMAGE_TOKENS, WINDOWS, TILES = "image_tokens", "windows", "tiles"

#: The input of towers that take tiles.
TILE_PIXELS = "pixel_values"

#: Inputs of ragged towers that say where attention ends, int32, and their one dimension: offsets of segments and windows in
#: patches, and of tiles; and a vector that is as long as the longest segment.
CU_TILES = "cu_tiles"
RAGGED_INPUTS = {
    "cu_seqlens": "segments+1",
    "cu_window_seqlens": "windows+1",
    "max_seqlen_carrier": "longest",
    CU_TILES: "tiles+1",
}

#: Which offsets tell the same as numbers of segments and windows for every patch.
OFFSETS_OF = {"segment_ids": "cu_seqlens", "window_ids": "cu_window_seqlens"}


@dataclass(frozen=True)
class VisionGeometry:
    """Sizes from which the host computes a vision network's inputs.

    ``unit`` is what the dynamic dimension counts; a unit makes ``tokens_a_unit`` rows of features (of a window, the most).
    For towers that take patches: ``merge_size`` squared patches of ``patch_dim`` numbers are a token; ``window_tokens`` is how
    many tokens attend to each other in layers with windows, 0 without; ``position_table_side`` is the side of a square table of
    learned positions, 0 without. For towers that take tiles: ``tile_size`` is ``(height, width)``. ``ragged``: offsets say which
    tokens attend to each other (ViTAttentionPlugin), so that those of all images follow one another without room between.
    """

    family: str
    unit: str
    tokens_a_unit: int
    merge_size: int = 0
    patch_dim: int = 0
    window_tokens: int = 0
    position_table_side: int = 0
    tile_size: tuple[int, int] | None = None
    ragged: bool = False

    @property
    def patches_a_unit(self) -> int:
        return self.tokens_a_unit * self.merge_size**2

    @property
    def window_patches(self) -> int:
        return self.window_tokens * self.merge_size**2

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
    def min_units(self) -> int:
        return min(self.max_units, max(1, self.min_image_tokens // self.geometry.tokens_a_unit))

    @property
    def largest(self) -> dict[str, int]:
        """The largest size of every symbolic dimension."""
        units = self.max_units
        return {name: sizes[2] for name, sizes in self._ranges().items()} | {
            "rows": units * self.geometry.tokens_a_unit
        }

    def profiles(self) -> tuple[dict[str, ShapeRange], ...]:
        """One optimization profile."""
        ranges = self._ranges()
        sizes = [{name: sizes[which] for name, sizes in ranges.items()} for which in range(3)]
        return ({t.name: ShapeRange(*(t.resolve(**each) for each in sizes)) for t in self.inputs},)

    def _ranges(self) -> dict[str, tuple[int, int, int]]:
        """Least, usual and largest size of every symbolic dimension of the inputs."""
        geometry = self.geometry
        least, most = self.min_units, self.max_units
        usual = max(least, most // 2)
        ranges = {geometry.unit: (least, usual, most)}
        if not geometry.ragged:
            return ranges
        if geometry.unit == TILES:
            return ranges | {"tiles+1": (least + 1, usual + 1, most + 1)}
        patches = geometry.merge_size**2
        windows = -(-usual // max(1, geometry.window_tokens))
        return ranges | {
            # A segment, or a window at an edge, may have one token alone.
            "segments+1": (2, 2, most + 1),
            "windows+1": (2, windows + 1, most + 1),
            "longest": (patches, usual * patches, most * patches),
        }

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VisionContract:
        """Rebuild from ``to_dict``'s form. Raises ``BundleError`` when a field is missing or of a wrong type."""
        try:
            geometry = dict(data["geometry"])
            tile = geometry.pop("tile_size")
            for key, value in geometry.items():
                wanted = {"family": str, "unit": str, "ragged": bool}.get(key, int)
                if type(value) is not wanted:
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
