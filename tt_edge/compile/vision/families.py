"""Where the parts of a vision-language model are: found in the model, and one record for what cannot be found."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from tt_edge.compile.vision.deepstack import deepstack_levels
from tt_edge.config import Backend, CompileConfig, TowerAttention
from tt_edge.contract import HIGH_RES_PIXELS, TILE_PIXELS
from tt_edge.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class Blocks(Enum):
    """Which tokens of a prompt see each other in both directions. All others see what is before them."""

    NONE = "none"
    #: The tokens of one image.
    IMAGE = "image"
    #: Likewise, in the layers with a sliding window only.
    IMAGE_IN_WINDOWS = "image in windows"
    #: The whole prompt.
    PROMPT = "prompt"


@dataclass(frozen=True)
class VLMFamily:
    """The structure of a family of vision-language models.

    Paths are those of submodules in the model. ``position_axes`` is 3 for M-RoPE text positions (temporal, height,
    width), or 4. ``tower`` is the kind of vision network: ``grid`` takes patches of images of any size; ``tiles`` takes tiles of
    one size, ``tile_size`` where the configuration does not have it, and in ``high_res_size``, too, where there is one; ``images``
    takes whole images, which the decoder sees by cross-attention. ``whole``: logits are computed by the whole model, which may
    scale them (``whole_of``), not by ``decoder`` and ``head`` only. ``prunes``: some of the image tokens can be dropped.
    ``marked``: places of tokens before and behind an image in front of a text that its decoder takes for the image's (Kosmos-2.5).
    ``film_merge``: how many patches a side of a video's frame are a token, by its video processor; 0 where it does not say.
    """

    decoder: str
    head: str
    tower: str
    position_axes: int = 1
    tile_size: tuple[int, int] | None = None
    high_res_size: tuple[int, int] | None = None
    whole: bool = False
    blocks: Blocks = Blocks.NONE
    prunes: bool = True
    marked: tuple[int, ...] = ()
    film_merge: int = 0

    def decoder_of(self, model: PreTrainedModel) -> Any:
        """The module that computes hidden states from ``inputs_embeds``."""
        return model.get_submodule(self.decoder)

    def entry_of(self, model: PreTrainedModel) -> Any:
        """The module that is called with all embeddings: the decoder, or its first layer where it places or makes features."""
        decoder = self.decoder_of(model)
        taken = inspect.signature(decoder.forward).parameters
        places = placed_features(decoder) or any(name.endswith(TILE_PIXELS) for name in taken)
        return decoder.layers[0] if places else decoder

    def whole_of(self, model: PreTrainedModel) -> Any:
        """The module that computes logits from ``inputs_embeds``: the smallest that has decoder and head."""
        common = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(*map(_names, (self.decoder, self.head)), strict=False)
        )
        return model.get_submodule(".".join(name for name, _ in common))

    def from_ids(self, model: PreTrainedModel) -> bool:
        """Whether the model makes more of token ids than embeddings: inputs of each decoder layer (Gemma 3n, Gemma 4 E2B)."""
        return bool(getattr(model.config.get_text_config(), LAYER_INPUTS, 0))

    def head_of(self, model: PreTrainedModel) -> nn.Module:
        head: nn.Module = model.get_submodule(self.head)
        return head


_QWEN = VLMFamily("model.language_model", "lm_head", "grid", position_axes=3)

#: By ``model_type``: families whose parts are not where ``_found`` looks for them.
FAMILIES: dict[str, VLMFamily] = {
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "mllama": VLMFamily("model.language_model", "lm_head", "images", prunes=False),
    "phi4_multimodal": VLMFamily("model", "lm_head", "tiles", prunes=False),
    "eagle2": VLMFamily("language_model.model", "language_model.lm_head", "tiles"),
    "vila": VLMFamily("language_model.model", "language_model.lm_head", "tiles", prunes=False),
    "blip-2": VLMFamily("language_model.model", "language_model.lm_head", "tiles"),
}


@dataclass(frozen=True)
class Instruction:
    """The text of a prompt that a tower reads with pixels: ``name`` is the argument that takes its token ids, ``most`` of them."""

    name: str
    most: int

    @property
    def tokenizer(self) -> str:
        """What the processor, and the folder of a checkpoint, call the tokenizer that makes the ids."""
        return self.name.removesuffix(_IDS) + "_tokenizer"

    @property
    def mask(self) -> str:
        """The argument that says which ids are there, where those of several images are padded."""
        return self.name.removesuffix(_IDS) + "_attention_mask"

    @classmethod
    def of(cls, model: Any) -> Instruction | None:
        """That of ``model``'s ``get_image_features``; ``None`` where it reads pixels only."""
        features = getattr(holder_of_features(model), "get_image_features", None)
        taken = {} if features is None else inspect.signature(features).parameters
        name = next((each for each in taken if each.endswith(_IDS)), None)
        if name is None:
            return None
        reader = getattr(model.config, name.removesuffix(_IDS) + "_config", None)
        return cls(name, int(getattr(reader, "max_position_embeddings", 0)))


@dataclass(frozen=True)
class _Facts:
    """What a family that is found has beside its parts; the fields are those of ``VLMFamily``."""

    blocks: Blocks = Blocks.NONE
    prunes: bool = False


#: By ``model_type``: what is not asked of the model and its processor, for families that the tests compare with both (dropped
#: tokens of Aya Vision, DeepSeek-VL and GOT-OCR 2: ``benchmarks/tower_options.py``).
KNOWN: dict[str, _Facts] = {
    "llava": _Facts(prunes=True),
    "vipllava": _Facts(prunes=True),
    "internvl": _Facts(prunes=True),
    "aya_vision": _Facts(prunes=True),
    "idefics3": _Facts(prunes=True),
    "smolvlm": _Facts(prunes=True),
    "deepseek_vl": _Facts(prunes=True),
    "got_ocr2": _Facts(prunes=True),
    "gemma3": _Facts(blocks=Blocks.IMAGE, prunes=True),
    "paligemma": _Facts(blocks=Blocks.PROMPT, prunes=True),
}

#: What was found of a model by running it and its processor.
_FOUND_OF: WeakKeyDictionary[Any, VLMFamily] = WeakKeyDictionary()

#: The setting of models whose decoder layers have inputs of their own, looked up by token id.
LAYER_INPUTS = "hidden_size_per_layer_input"
#: How the names end of masks of the places of features.
PLACES = "_position_mask"
#: How the names end of token ids that ``get_image_features`` takes.
_IDS = "_input_ids"
#: Inputs of ``get_image_features`` beside pixels that tt-edge's runtime makes itself, or does not need for whole tiles.
_SERVED = frozenset(
    {TILE_PIXELS, HIGH_RES_PIXELS, "image_sizes", "pixel_attention_mask", "pixel_mask", "kwargs", "args"}
)
#: Those of models whose images are grids of patches of any size.
_OF_GRIDS = frozenset({"image_grid_thw", "image_merge_sizes"})
#: Of those, what says where each patch is in its image.
COORDINATES = "image_position_ids"


def is_vision_language(config: PreTrainedConfig) -> bool:
    """Whether a configuration is of a model that answers to images and text."""
    return any(getattr(config, name, None) is not None for name in ("vision_config", "vq_config"))


def is_encoder_decoder(config: PreTrainedConfig) -> bool:
    """Whether a configuration is of an encoder-decoder, or of a model whose language part is one (InstructBLIP with T5)."""
    text = getattr(config, "text_config", None)
    return bool(config.is_encoder_decoder or getattr(text, "is_encoder_decoder", False))


def family_of(model: PreTrainedModel) -> VLMFamily | None:
    """The family of a vision-language model; ``None`` for a language model.

    Raises ``UnsupportedModelError``, naming the feature, for a vision-language model whose parts are not found.
    """
    config = model.config
    if not is_vision_language(config):
        return None
    return _FOUND_OF.get(model) or FAMILIES.get(config.model_type) or _found(model)


def remember(model: PreTrainedModel, family: VLMFamily) -> VLMFamily:
    """From here on ``family_of(model)`` is ``family``."""
    _FOUND_OF[model] = family
    return family


def _found(model: PreTrainedModel) -> VLMFamily:
    """The parts of a model by transformers' own names for them."""
    name, kind = type(model).__name__, model.config.model_type
    grids, facts = has_grids(model), KNOWN.get(kind, _Facts())
    features = getattr(holder_of_features(model), "get_image_features", None)
    if features is None and hasattr(model, "get_video_features"):
        raise UnsupportedModelError(f"{name} takes videos only, which no backend has")
    if features is None and placed_features(language_part(model)) is None:
        raise UnsupportedModelError(
            f"{name} has no get_image_features, so its language part takes images in another way than as embeddings "
            "(it attends to them, or puts them before the text by itself); no backend has this"
        )
    parameters = inspect.signature(features).parameters.values() if features is not None else ()
    needed = sorted(p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)
    instruction = Instruction.of(model)
    served = _SERVED | _OF_GRIDS | ({instruction.name} if instruction is not None and instruction.most else set())
    if strange := [each for each in needed if each not in served]:
        raise UnsupportedModelError(
            f"{name}'s vision tower takes {', '.join(strange)} beside pixels, which tt-edge does not make; no backend has this"
        )
    if (own := getattr(model.config.get_text_config(), LAYER_INPUTS, 0)) and not _takes_layer_inputs(model):
        raise UnsupportedModelError(
            f"{name}'s decoder layers have inputs of their own ({LAYER_INPUTS} {own}), which its language part does not take as "
            "per_layer_inputs; no backend has this for prompts with images"
        )
    decoder = _path(model, language_part(model))
    head = _path(model, model.get_output_embeddings())
    if not decoder or not head:
        raise UnsupportedModelError(
            f"{name}'s language part is not a module of its own with a head, so it cannot be compiled apart"
        )
    if not grids:
        return VLMFamily(decoder, head, "tiles", whole=True, **asdict(facts))
    return VLMFamily(decoder, head, "grid", _position_axes(model), whole=not deepstack_levels(model), **asdict(facts))


def _takes_layer_inputs(model: Any) -> bool:
    part: Any = language_part(model)
    return part is not None and "per_layer_inputs" in inspect.signature(part.forward).parameters


def has_grids(model: Any) -> bool:
    """Whether images are grids of patches of any size: the tower takes their sizes or their patches' places, or makes positions
    of them (Pixtral).
    """
    features = getattr(holder_of_features(model), "get_image_features", None)
    taken = {} if features is None else inspect.signature(features).parameters
    return (
        "image_grid_thw" in taken
        or COORDINATES in taken
        or any(name.endswith("patch_positional_embedding") for name, _ in model.named_modules())
    )


def rope_index(model: Any) -> Any:
    """The model's function of the positions of image tokens on several axes (M-RoPE); ``None`` where a position is a place."""
    owners: tuple[Any, ...] = (model, getattr(model, "model", None))
    return next((each.get_rope_index for each in owners if hasattr(each, "get_rope_index")), None)


def _position_axes(model: Any) -> int:
    """How many numbers a token's position has: one for each section of M-RoPE's frequencies."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return 1 if rope_index(model) is None else len(rope.get("mrope_section") or (1, 1, 1))


def holder_of_features(model: Any) -> Any:
    """The module that has ``get_image_features``: the base model, or the model where only that has it."""
    inner = getattr(model, "model", model)
    return inner if hasattr(inner, "get_image_features") else model


def check_options(model: PreTrainedModel, family: VLMFamily, config: CompileConfig) -> None:
    """Raise ``UnsupportedModelError`` for options that the family's images do not have, or that its blocks exclude."""
    name = type(model).__name__
    if family.tower == "images":
        check_crossed_options(name, config)
    if config.vision.keep_image_tokens != 1 and not family.prunes:
        raise UnsupportedModelError(
            f"{name} was not compared with image tokens left out, which may stand in lines or tiles there; omit --keep-image-tokens"
        )
    if family.blocks is Blocks.NONE:
        return
    if config.attention.backend is Backend.PLUGIN:
        raise UnsupportedModelError(
            f"{name} has tokens that see each other in both directions, which AttentionPlugin does not have; compile with "
            "--backend native or sdpa"
        )
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if family.blocks is Blocks.PROMPT and window is not None and window < config.limits.max_seq_len:
        raise UnsupportedModelError(
            f"{name}'s prompts see beyond its sliding window of {window} tokens, which no backend has; compile with "
            f"--max-seq-len {window} or less"
        )


def check_crossed_options(name: str, config: CompileConfig) -> None:
    """Raise ``UnsupportedModelError`` for options that a decoder with cross-attention to images does not have."""
    given = {
        "--backend plugin": config.attention.backend is Backend.PLUGIN,
        "--vision-attention plugin": config.vision.attention is TowerAttention.PLUGIN,
        "--keep-image-tokens": config.vision.keep_image_tokens != 1,
    }
    for option, is_given in given.items():
        if is_given:
            raise UnsupportedModelError(f"{name} sees images by cross-attention, which {option} does not have; omit it")


def placed_features(decoder: nn.Module | None) -> str | None:
    """The argument by which a decoder takes features that it places itself, where ``…_position_mask`` says (Kosmos-2).

    ``None`` for one that is handed embeddings.
    """
    taken = () if decoder is None else inspect.signature(decoder.forward).parameters
    return next((name for name in taken if f"{name}{PLACES}" in taken), None)


def language_part(model: Any) -> nn.Module | None:
    """The module that makes hidden states of ``inputs_embeds``, by the names that transformers' models have for it."""
    inner = getattr(model, "model", model)
    itself = inner if hasattr(inner, "layers") else None  # a decoder that makes features itself (Chameleon)
    found = next((getattr(inner, name) for name in ("language_model", "text_model") if hasattr(inner, name)), itself)
    for nested in ("model", "decoder"):  # of a language model with a head of its own; OPT's within
        part = getattr(found, nested, None)
        found = part if isinstance(part, nn.Module) else found
    return found


def _names(path: str) -> list[str]:
    return path.split(".")


def _path(model: nn.Module, part: nn.Module | None) -> str:
    """The name of a submodule; empty if it is none."""
    return next((name for name, module in model.named_modules() if module is part and part is not None), "")
