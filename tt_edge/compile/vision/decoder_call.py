"""Whether a model hands its decoder with images what tt-edge's network is handed: embeddings, positions, who sees whom."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tt_edge.compile.export.semantics import semantic_attention
from tt_edge.compile.vision.decoder import ImageDecoder
from tt_edge.compile.vision.deepstack import MASKS
from tt_edge.compile.vision.families import Blocks, VLMFamily, has_grids
from tt_edge.compile.vision.grids.found import patch_inputs_of
from tt_edge.compile.vision.padded.resampled import ResampledTower
from tt_edge.compile.vision.processing.own_processor import OwnProcessor
from tt_edge.compile.vision.processing.written import Written, on_canvas
from tt_edge.compile.vision.tower import Tower
from tt_edge.errors import TTEdgeError, UnsupportedModelError, one_line
from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.images.image_prompt import IMAGE_PROMPT_FILE
from tt_edge.runtime.multimodal.processor import MultimodalProcessor
from tt_edge.runtime.multimodal.prompt_images import PromptImages
from tt_edge.runtime.multimodal.vision_inputs import unpadded_inputs
from tt_edge.runtime.text.tokenizer import BundleTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.files import HostFiles
    from tt_edge.contract import VisionGeometry

#: Relative difference of equal computations, by type.
_CLOSE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class _ReachedError(Exception):
    """The decoder was called."""


def check_decoder_call(
    model: PreTrainedModel,
    family: VLMFamily,
    tower: Tower,
    geometry: VisionGeometry,
    own: OwnProcessor,
    files: HostFiles,
) -> VLMFamily:
    """``family``, with the blocks of tokens that see each other as the model has them.

    Raises ``UnsupportedModelError``, naming what differs. Of the model, only what runs before its decoder is run.
    """
    assert files.has(IMAGE_PROMPT_FILE)
    processor = MultimodalProcessor.from_files(files, geometry, family.position_axes)
    images = own.samples(geometry)[: 2 if own.word else 1]
    prompt = f"A {own.word} or {own.word}?"
    written = own.run(prompt, images)
    tokenizer = BundleTokenizer.from_bundle(files)
    ids, prepared = processor.tokenize(tokenizer, prompt, images, add_special_tokens=True)
    prepared = _with_pixels(model, prepared, written)
    placed, theirs, ours = compare_calls(model, family, tower, geometry, processor, written, ids, prepared)
    blocks = blocks_of(model, placed, theirs, ours)
    return family if blocks is None or blocks is Blocks.NONE else replace(family, blocks=blocks)


def blocks_of(
    model: PreTrainedModel, placed: PromptImages, theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> Blocks | None:
    """Which tokens see each other, by the masks of two calls of the decoder; ``None`` for a mask of another kind, equal in both.

    Raises ``UnsupportedModelError`` for masks that differ.
    """
    length = len(placed.indices)
    theirs_see, ours_see = (_visible(each.get("attention_mask"), length) for each in (theirs, ours))
    blocks = _blocks(theirs_see, placed.indices >= 0, model)
    if blocks is not None:
        return blocks
    if theirs_see.keys() == ours_see.keys() and all(np.array_equal(theirs_see[key], ours_see[key]) for key in ours_see):
        return None
    raise UnsupportedModelError(
        f"{type(model).__name__}'s tokens of images see others than those before them and those of their image, which no backend "
        "has"
    )


def compare_calls(
    model: PreTrainedModel,
    family: VLMFamily,
    tower: Tower,
    geometry: VisionGeometry,
    processor: MultimodalProcessor,
    written: Written,
    ids: list[int],
    prepared: list[ProcessedImage],
) -> tuple[PromptImages, dict[str, Any], dict[str, Any]]:
    """Where ``prepared`` stand in the prompt ``ids``, and what the decoder is handed: by the model, for ``written``, and here.

    Raises ``UnsupportedModelError``, naming it, for what differs, but for masks.
    """
    placed = processor.place(ids, prepared)
    taken = inspect.signature(model.forward).parameters
    inputs = {
        key: value.to(model.dtype) if value.is_floating_point() else value
        for key, value in written.outputs.items()
        if isinstance(value, Tensor) and (key in taken or key.startswith("pixel"))
    }
    entry = family.entry_of(model)
    theirs = _called(model, entry, lambda: model(**inputs, use_cache=False))
    ours = _called(model, entry, lambda: _run_ours(model, family, tower, geometry, ids, prepared, placed))
    _compare(type(model).__name__, theirs, ours, len(ids), _CLOSE.get(model.dtype, 5e-2))
    return placed, theirs, ours


def _blocks(seen: Mapping[str, np.ndarray], inside: np.ndarray, model: Any) -> Blocks | None:
    """Which tokens see each other, by the masks of each kind of layers; ``None`` for what is not followed."""
    causal, places = np.tri(len(inside), dtype=bool), np.arange(len(inside))
    run = np.cumsum(np.diff(inside, prepend=False))
    image = causal | (inside[:, None] & inside[None, :] & (run[:, None] == run[None, :]))
    window = getattr(model.config.get_text_config(), "sliding_window", None) or len(inside)
    near = places[None, :] > places[:, None] - window
    kinds: dict[str, Blocks] = {}
    for layers, mask in seen.items():
        for blocks, full in ((Blocks.NONE, causal), (Blocks.IMAGE, image)):
            if np.array_equal(mask, full) or np.array_equal(mask, full & near):
                kinds.setdefault(layers, blocks)
        if layers not in kinds:
            return None
    found = set(kinds.values()) or {Blocks.NONE}
    if len(found) == 1:
        return found.pop()
    windows = kinds.get("sliding_attention") is Blocks.IMAGE
    return Blocks.IMAGE_IN_WINDOWS if windows and list(kinds.values()).count(Blocks.IMAGE) == 1 else None


def _with_pixels(model: PreTrainedModel, prepared: list[ProcessedImage], written: Written) -> list[ProcessedImage]:
    """``prepared`` with the processor's own pixels, which differ in rounding only."""
    pixels, high_res = written.pixels.float(), written.high_res
    if has_grids(model):
        patches = patch_inputs_of(model).blocks(pixels, [image.grid or (0, 0, 0) for image in prepared])
        return [replace(image, pixels=own) for image, own in zip(prepared, patches, strict=True)]
    found, first = [], 0
    for image in prepared:
        own = slice(first, first + len(image.pixels))
        tiles = on_canvas(pixels[own], image.pixels).reshape(image.pixels.shape).numpy()
        found.append(replace(image, pixels=tiles, high_res=None if high_res is None else high_res[own].float().numpy()))
        first += len(image.pixels)
    return found


def _called(model: PreTrainedModel, decoder: Any, run: Any) -> dict[str, Any]:
    """The arguments, by name, of the first call of ``decoder`` in ``run``."""
    seen: dict[str, Any] = {}
    names = list(inspect.signature(decoder.forward).parameters)

    def reached(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.update(zip(names, args, strict=False))
        seen.update(kwargs)
        raise _ReachedError

    handle = decoder.register_forward_pre_hook(reached, with_kwargs=True)
    try:
        with torch.no_grad():
            run()
    except _ReachedError:
        return seen
    except TTEdgeError:
        raise
    except Exception as error:  # a model raises anything for inputs that do not suit it
        raise UnsupportedModelError(
            f"{type(model).__name__} does not run with its processor's outputs ({one_line(error)})"
        ) from error
    finally:
        handle.remove()
    raise UnsupportedModelError(f"{type(model).__name__} does not call its decoder, {type(decoder).__name__}")


def _run_ours(
    model: PreTrainedModel,
    family: VLMFamily,
    tower: Tower,
    geometry: VisionGeometry,
    ids: list[int],
    prepared: list[ProcessedImage],
    placed: PromptImages,
) -> Any:
    inputs, rows = unpadded_inputs(geometry, prepared)
    tensors = {
        key: torch.from_numpy(np.ascontiguousarray(value)).to(
            model.dtype if value.dtype.kind == "f" and "interpolation" not in key else torch.from_numpy(value).dtype
        )
        for key, value in inputs.items()
    }
    with tower.traceable(), semantic_attention(model):
        made = tower.without_padding(**tensors) if isinstance(tower, ResampledTower) else tower(**tensors)
        tables = [table[torch.from_numpy(rows)] for table in made]
    positions: Any = np.arange(len(ids))[None] if placed.positions is None else placed.positions[:, None]
    indices = torch.from_numpy(placed.indices)[None]
    module = ImageDecoder(model, family)
    with module.traceable():
        return module(torch.tensor([ids]), torch.from_numpy(np.ascontiguousarray(positions)), indices, *tables)


def _compare(name: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], length: int, close: float) -> None:
    for key in theirs:
        want, got = theirs[key], ours.get(key)
        if key == "attention_mask" or want is None or isinstance(want, bool | int | float | str):
            continue
        if key in ("past_key_values", "cache_position", "input_ids"):
            continue
        wanted, found = _tensors(want), _tensors(got)
        if wanted.keys() != found.keys():
            raise UnsupportedModelError(f"{name} hands its decoder {key} with images, which tt-edge does not make")
        for place in wanted:
            _compare_tensors(name, key, wanted[place], found[place], close)
    embeds = theirs.get(
        "inputs_embeds", theirs.get("hidden_states")
    )  # of its first layer, where it places features itself
    if embeds is None or embeds.shape[1] != length:
        raise UnsupportedModelError(f"{name} does not hand its decoder embeddings of its {length} tokens")


def _compare_tensors(name: str, key: str, want: Tensor, got: Tensor, close: float) -> None:
    if key in MASKS:  # the decoder is handed rows of features instead
        got = got >= 0
        want = want[..., 0] if want.ndim > got.ndim else want
    if key == "position_ids":
        want = want.expand_as(got) if want.ndim <= got.ndim else want
    if want.shape != got.shape:
        raise UnsupportedModelError(
            f"{name} hands its decoder {key} of {list(want.shape)}, and tt-edge {list(got.shape)}"
        )
    apart = float((want.double() - got.double()).norm() / want.double().norm().clamp(min=1e-12))
    if apart > close:
        raise UnsupportedModelError(
            f"{name} hands its decoder other {key} with images than tt-edge's network has ({apart:.2g} apart)"
        )


def _tensors(value: Any) -> dict[Any, Tensor]:
    """A tensor, or those of a list or a mapping, by their places."""
    named = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value if isinstance(value, list | tuple) else [value])
    )
    return {place: each for place, each in named if isinstance(each, Tensor)}


def _visible(masks: Any, length: int) -> dict[str, np.ndarray]:
    """``[S, S]``, which tokens each token sees, by the kind of layers; none where nothing is said but that all tokens are there."""
    if not isinstance(masks, Mapping):
        masks = {"full_attention": masks}
    found: dict[str, np.ndarray] = {}
    for layers, mask in masks.items():
        if isinstance(mask, Tensor) and mask.ndim == 4:
            own = mask[0, 0, :length, :length]
            found[layers] = (own if own.dtype is torch.bool else own > -1).numpy()
        elif mask is None and len(masks) > 1:
            found[layers] = np.tri(length, dtype=bool)
    return found
