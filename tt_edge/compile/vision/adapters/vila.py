"""VILA 1.5 and NVILA: SigLIP, a projector that merges neighbouring patches, and Llama or Qwen2.

The code of these checkpoints (``Efficient-Large-Model/NVILA-Lite-2B`` and others) is NVIDIA's, not transformers'. This is the same
architecture, built from parts of transformers.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig, SiglipVisionConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tt_edge.compile.vision.adapters.placing import PlacingModel
from tt_edge.errors import UnsupportedModelError

_MLP = re.compile(r"mlp([1-9])x_gelu")
#: How many patches a side a projector merges into one token, of those that merge.
_MERGED = {"mlp_downsample": 2, "mlp_downsample_2x2_fix": 2, "mlp_downsample_3x3_fix": 3}


class VilaConfig(PreTrainedConfig):  # type: ignore[misc]
    """``select_layer``: the index of the tower's hidden states that are projected. ``max_tiles``: of an image. ``before`` and
    ``behind``: token ids whose embeddings stand around the features of each tile, as image tokens. See ``VilaCheckpoint``."""

    model_type = "vila"
    sub_configs: ClassVar = {"vision_config": SiglipVisionConfig, "text_config": AutoConfig}

    vision_config: Any = None
    text_config: Any = None
    projector: str = "mlp_downsample"
    select_layer: int = -2
    max_tiles: int = 1
    image_token_id: int = 0
    video_token_id: int | None = None
    before: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()
    tie_word_embeddings: bool = False

    def most_image_tokens(self, images: int) -> int:
        """Of so many images in a prompt. One of its own may have tiles, and then has a small copy beside them."""
        side = _MERGED.get(self.projector, 1)
        edge: int = -(-(self.vision_config.image_size // self.vision_config.patch_size) // side)
        tiles = self.max_tiles + 1 if images == 1 and self.max_tiles > 1 else images
        return tiles * (edge**2 + len(self.before) + len(self.behind))


class VilaForConditionalGeneration(PlacingModel):
    """A tower, a projector, and the language model, by the names of the checkpoint's folders but for ``llm``."""

    config_class = VilaConfig

    def __init__(self, config: VilaConfig) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.mm_projector = Projector(
            config.projector, config.vision_config.hidden_size, config.text_config.hidden_size
        )
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """``pooler_output`` ``[tiles, tokens, hidden]``: the embeddings of ``before``, features, the embeddings of ``behind``."""
        out = self.vision_tower(pixel_values=pixel_values, output_hidden_states=True)
        states = out.hidden_states[self.config.select_layer]
        features = self.mm_projector(states)
        around = [self._embedded(ids, features) for ids in (self.config.before, self.config.behind)]
        parts = [part for part in (around[0], features, around[1]) if part is not None]
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=torch.cat(parts, dim=1))

    def _embedded(self, ids: tuple[int, ...], features: Tensor) -> Tensor | None:
        """``[tiles, ids, hidden]``, if there are ids."""
        if not ids:
            return None
        weight: Any = self.get_input_embeddings().weight
        rows = torch.stack([weight[each] for each in ids])
        return rows.to(features.dtype).expand(features.shape[0], *rows.shape)


class Projector(nn.Module):
    """NVIDIA's ``MultimodalProjector`` of the type ``kind``; ``layers`` has its parameters' names.

    Raises ``UnsupportedModelError`` for a type that is not followed.
    """

    def __init__(self, kind: str, wide: int, hidden: int) -> None:
        super().__init__()
        if kind == "linear":
            self.layers: nn.Module = nn.Linear(wide, hidden)
        elif found := _MLP.fullmatch(kind):
            more = [part for _ in range(int(found[1]) - 1) for part in (nn.GELU(), nn.Linear(hidden, hidden))]
            self.layers = nn.Sequential(nn.Linear(wide, hidden), *more)
        elif kind in _MERGED:
            side = _MERGED[kind]
            merged = wide * side**2
            layers = [MergePatches(side), nn.LayerNorm(merged)]
            if side == 3:
                layers += [nn.Linear(merged, 3 * wide), nn.GELU(), nn.LayerNorm(3 * wide)]
                merged = 3 * wide
            self.layers = nn.Sequential(*layers, nn.Linear(merged, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        else:
            followed = ", ".join(("linear", "mlpNx_gelu", *_MERGED))
            raise UnsupportedModelError(f"VILA's mm_projector_type {kind!r:.80} is not followed ({followed} are)")

    def forward(self, states: Tensor) -> Tensor:
        """``[tiles, patches, wide]`` to ``[tiles, tokens, hidden]``."""
        features: Tensor = self.layers(states)
        return features


class MergePatches(nn.Module):
    """``[tiles, patches, hidden]`` of square images to one row a block of ``side`` by ``side`` patches, with zeros at the edges."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, states: Tensor) -> Tensor:
        tiles, patches, hidden = states.shape
        edge, side = round(patches**0.5), self.side
        grid = states.reshape(tiles, edge, edge, hidden)
        if missing := -edge % side:
            grid = torch.cat([grid, grid.new_zeros(tiles, missing, edge, hidden)], dim=1)
            grid = torch.cat([grid, grid.new_zeros(tiles, edge + missing, missing, hidden)], dim=2)
        blocks = (edge + missing) // side
        apart = grid.reshape(tiles, blocks, side, blocks, side, hidden).transpose(2, 3)
        return apart.reshape(tiles, blocks**2, side**2 * hidden)
