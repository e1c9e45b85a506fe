"""Eagle 2 and 2.5: SigLIP, pixel shuffle, a perceptron and Qwen2, whose own code is not in transformers.

The checkpoints (such as ``nvidia/Eagle2-2B``) contain their own Python code, which is never run here. This is the same
architecture, built from parts of transformers, with the parameter names of those checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    SiglipVisionConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tt_edge.compile.checkpoint.json_files import read_object
from tt_edge.compile.vision.adapters.placing import PlacingModel
from tt_edge.errors import InvalidInputError, UnsupportedModelError

#: ``model_type`` in the ``config.json`` of such checkpoints: Eagle 2 as first released, and since 2.5.
EAGLE_TYPES = ("eagle_chat", "eagle_2_5_vl")
#: The placeholder token for one row of image features.
IMAGE_TOKEN = "<IMG_CONTEXT>"
#: Renames tower tensors of checkpoints, which use an older transformers' names.
KEY_MAPPING = {r"^vision_model\.vision_model\.": "vision_model."}


class Eagle2Config(PreTrainedConfig):  # type: ignore[misc]
    """``select_layer``: the tower layer whose output is used; -1: the last, normalized. See ``eagle2_config``."""

    model_type = "eagle2"
    sub_configs: ClassVar = {"vision_config": SiglipVisionConfig, "text_config": AutoConfig}

    vision_config: Any = None
    text_config: Any = None
    select_layer: int = -1
    downsample_ratio: float = 0.5
    image_token_id: int = 0
    min_dynamic_tiles: int = 1
    max_dynamic_tiles: int = 12
    use_thumbnail: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.vision_config, dict):
            self.vision_config = SiglipVisionConfig(**self.vision_config)
        if isinstance(self.text_config, dict):
            self.text_config = AutoConfig.for_model(**self.text_config)
        super().__post_init__(**kwargs)

    def most_image_tokens(self, images: int) -> int:
        """Of so many images in a prompt."""
        tiles = self.max_dynamic_tiles + int(self.use_thumbnail and self.max_dynamic_tiles > 1)
        edge = int(self.vision_config.image_size // self.vision_config.patch_size * self.downsample_ratio)
        return images * tiles * edge**2


class Eagle2ForConditionalGeneration(PlacingModel):
    """A tower, the perceptron behind its pixel shuffle, and the language model."""

    config_class = Eagle2Config

    def __init__(self, config: Eagle2Config) -> None:
        super().__init__(config)
        self.vision_model = AutoModel.from_config(config.vision_config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.shuffle = round(1 / config.downsample_ratio)
        wide, hidden = config.vision_config.hidden_size * self.shuffle**2, config.text_config.hidden_size
        self.mlp1 = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.post_init()

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """``pooler_output`` ``[tiles, tokens, hidden]``."""
        layer = self.config.select_layer
        out = self.vision_model(pixel_values=pixel_values, output_hidden_states=layer != -1)
        states = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
        return BaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=self.mlp1(pixel_shuffle(states, self.shuffle))
        )


def pixel_shuffle(states: Tensor, side: int) -> Tensor:
    """``[tiles, tokens, hidden]`` of a square image to ``[tiles, tokens / side², hidden · side²]``."""
    tiles, tokens, hidden = states.shape
    edge = round(tokens**0.5) // side
    blocks = states.reshape(tiles, edge, side, edge, side, hidden).transpose(2, 3)
    return blocks.reshape(tiles, edge * edge, side * side * hidden)


def eagle2_config(settings: Mapping[str, Any], folder: Path) -> Eagle2Config:
    """Build the configuration from a checkpoint's ``config.json``, and from its tokenizer if that lacks the image token.

    Raises ``UnsupportedModelError`` for a tower other than SigLIP, and ``InvalidInputError`` for a checkpoint without an
    image token.
    """
    vision = dict(settings.get("vision_config") or {})
    text = dict(settings.get("text_config") or settings.get("llm_config") or {})
    tower = vision.pop("model_type", "siglip_vision_model")
    if tower != "siglip_vision_model":
        raise UnsupportedModelError(f"Eagle 2 with the vision tower {tower!r} is not supported; SigLIP's is")
    model_type = text.pop("model_type", None) or _type_of(text)
    size = settings.get("force_image_size") or vision.get("image_size", 224)
    if size != vision.get("image_size", size):
        raise UnsupportedModelError(
            f"Eagle 2 with force_image_size {size} and a tower for {vision['image_size']} is not supported; make them equal"
        )
    # The pooling head reduces an image to one vector, which the language model does not use.
    vision_config = SiglipVisionConfig(**{**vision, "image_size": size, "vision_use_head": False})
    tiled = bool(settings.get("dynamic_image_size", True))
    least = settings.get("min_dynamic_tiles", settings.get("min_dynamic_patch", 1))
    most = settings.get("max_dynamic_tiles", settings.get("max_dynamic_patch", 12))
    return Eagle2Config(
        vision_config=vision_config,
        text_config=AutoConfig.for_model(model_type, **text),
        select_layer=int(settings.get("select_layer", -1)),
        downsample_ratio=float(settings.get("downsample_ratio", 0.5)),
        image_token_id=_image_token_id(settings, folder),
        min_dynamic_tiles=int(least) if tiled else 1,
        max_dynamic_tiles=int(most) if tiled else 1,
        use_thumbnail=bool(settings.get("use_thumbnail", True)),
        architectures=["Eagle2ForConditionalGeneration"],
    )


def _type_of(text: Mapping[str, Any]) -> str:
    architecture = (text.get("architectures") or ["Qwen2ForCausalLM"])[0]
    return str(architecture).removesuffix("ForCausalLM").lower()


def _image_token_id(settings: Mapping[str, Any], folder: Path) -> int:
    found = settings.get("image_token_index", settings.get("image_token_id"))
    if found is None:
        tokens = read_object(folder / "tokenizer.json").get("added_tokens", [])
        found = next((token["id"] for token in tokens if token.get("content") == IMAGE_TOKEN), None)
    if not isinstance(found, int):
        raise InvalidInputError(
            f"checkpoint {folder} has no image_token_index, and no token {IMAGE_TOKEN} in tokenizer.json; add one of them"
        )
    return found


def is_eagle2(settings: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's ``config.json`` is of this architecture, in NVIDIA's layout or in this class's."""
    return settings.get("model_type") in (*EAGLE_TYPES, Eagle2Config.model_type)


def eagle2_config_of(settings: Mapping[str, Any], folder: Path) -> Eagle2Config:
    """The configuration from either layout: NVIDIA's, or that of a checkpoint saved by this class."""
    if settings.get("model_type") == Eagle2Config.model_type:
        return Eagle2Config(**settings)
    return eagle2_config(settings, folder)
