"""The vision part of Phi-4-multimodal, whose tiles may be partly padding, as one module; and as transformers runs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tt_edge.compile.vision.padded.places import DoneError, embedded, places_in_lines, seen_by
from tt_edge.contract import TILE_EDGES, TILE_PIXELS, TILES, VisionGeometry
from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.multimodal.images.processed import ProcessedImage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What the model calls its pixels ``[images, tiles, 3, H, W]``, and which patches of each tile are no padding.
IMAGE_PIXELS, IMAGE_MASK = "image_pixel_values", "image_attention_mask"


def pads_tiles(model: Any) -> bool:
    """Whether tiles of ``model`` may be partly padding, which its tower is told."""
    return _embedding_of(model) is not None


def _embedding_of(model: Any) -> Any:
    return getattr(getattr(getattr(model, "model", None), "embed_tokens_extend", None), "image_embed", None)


def see_both_ways(model: Any) -> None:
    """Make the tower's attention that of transformers' eager implementation, whatever implementation computes it.

    With SDPA transformers would compute it causally where no tile of a call has padding: its class says so, and there is no mask.
    """
    embedding = _embedding_of(model)
    for module in () if embedding is None else embedding.img_processor.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


class PaddedTower(nn.Module):
    """Tiles to features: the tower's layers up to one, the mean of four patches each, and the projection."""

    instruction = None
    high_res_size = None

    def __init__(self, model: PreTrainedModel, tile_size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.tile_size = model, tile_size
        vision: Any = model.config.vision_config
        self.patches = int(vision.image_size) // int(vision.patch_size)
        if tile_size != (vision.crop_size, vision.crop_size) or vision.crop_size != vision.image_size:
            raise UnsupportedModelError(
                f"{type(model).__name__} has crop_size {vision.crop_size} and image_size {vision.image_size}, and tiles of "
                f"{tile_size[0]} x {tile_size[1]} pixels, which differ; no backend has this"
            )
        self._lines = places_in_lines(_embedding_of(model).img_processor.embeddings, tile_size, self.patches)

    def forward(self, pixel_values: Tensor, tile_edges: Tensor) -> tuple[Tensor, ...]:
        """Pixels ``[tiles, 3, H, W]``, and the rows and columns of patches of each that are no padding ``[tiles, 2]``, to features
        ``[tiles * rows of a tile, hidden]``. The last two of a tile are the end of a line, and what stands before the whole image.
        """
        embedding = _embedding_of(self.model)
        vision, count = embedding.img_processor, self.patches
        states, there = embedded(vision.embeddings, self._lines, pixel_values, tile_edges)
        seen = seen_by(there, count**2)
        for layer in vision.encoder.layers[: _layers(embedding, vision)]:
            states = layer(states, seen)
        features = _means(states, count)
        hidden = features.shape[-1]
        ends = torch.cat([part.reshape(1, hidden) for part in (
            embedding.sub_img_feature_extensor, embedding.global_img_feature_extensor
        )])  # fmt: skip
        tables = torch.cat([features, ends.to(features.dtype).expand(features.shape[0], 2, hidden)], dim=1)
        projected = embedding.img_projection_down(nn.functional.gelu(embedding.img_projection_up(tables)))
        return (projected.flatten(0, 1),)

    def example(self, units: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Inputs to trace with, by name: ``units`` tiles."""
        edges = torch.full((units, 2), self.patches, dtype=torch.int64)
        return {TILE_PIXELS: torch.zeros(units, 3, *self.tile_size, dtype=dtype), TILE_EDGES: edges}

    @contextmanager
    def traceable(self) -> Iterator[None]:
        yield

    def geometry(self) -> VisionGeometry:
        """The sizes of its inputs and outputs."""
        side = -(-self.patches // 2)
        return VisionGeometry(
            str(self.model.config.model_type), TILES, side**2 + 2, tile_size=self.tile_size, padded_tiles=self.patches
        )


def _layers(embedding: Any, vision: Any) -> int:
    """How many layers run before the hidden states that are used."""
    index, count = int(embedding.layer_idx), len(vision.encoder.layers)
    return index if index >= 0 else count + 1 + index


def _means(states: Tensor, count: int) -> Tensor:
    """``[tiles, patches, hidden]`` of a square to the mean of each two by two patches; an odd line is mirrored at its end."""
    grid = states.reshape(states.shape[0], count, count, states.shape[-1])
    if count % 2:
        grid = torch.cat([grid, grid[:, -2:-1]], dim=1)
        grid = torch.cat([grid, grid[:, :, -2:-1]], dim=2)
    side = (count + count % 2) // 2
    blocks = grid.reshape(states.shape[0], side, 2, side, 2, states.shape[-1])
    return blocks.mean(dim=(2, 4)).flatten(1, 2)


def padded_inputs(model: Any, images: Sequence[ProcessedImage]) -> dict[str, Tensor]:
    """The model's inputs for ``images``, as its processor makes them."""
    vision: Any = model.config.vision_config
    count, most = vision.image_size // vision.patch_size, max(len(image.pixels) for image in images)
    pixels = torch.zeros(len(images), most, *images[0].pixels.shape[1:])
    mask = torch.ones(len(images), most, count, count)
    for number, image in enumerate(images):
        assert image.edges is not None
        pixels[number, : len(image.pixels)] = torch.from_numpy(image.pixels)
        for tile, (rows, columns) in enumerate(image.edges.tolist()):
            mask[number, tile, rows:] = 0
            mask[number, tile, :, columns:] = 0
    sizes = torch.tensor([image.size for image in images])
    return {IMAGE_PIXELS: pixels, IMAGE_MASK: mask, "image_sizes": sizes}


def padded_features(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The features of each image as the model makes them, ``[rows, hidden]``: what its projection returns."""
    embedding = _embedding_of(model)
    seen: list[Tensor] = []

    def called(_module: nn.Module, _args: Any, out: Tensor) -> None:
        seen.append(out.flatten(0, -2))
        if len(seen) == len(inputs[IMAGE_PIXELS]):
            raise DoneError

    handle = embedding.img_projection_down.register_forward_hook(called)
    nothing = torch.zeros(1, 1, dtype=torch.int64, device=inputs[IMAGE_PIXELS].device)
    try:
        embedding(
            nothing,
            model.get_input_embeddings()(nothing),
            inputs[IMAGE_PIXELS],
            inputs["image_sizes"],
            inputs[IMAGE_MASK],
        )
    except DoneError:
        pass
    finally:
        handle.remove()
    return seen
