"""Comparing the stages before the language part of a vision-language model: preprocessing, and the tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.parity.images.pruning import follows_rule
from tt_edge.compile.parity.images.pytorch_vlm import (
    Inputs,
    cast,
    model_inputs,
    processor_inputs,
    processor_of,
    tower_outputs,
    vision_inputs_of,
)
from tt_edge.compile.parity.references.rounding import farthest_rounding
from tt_edge.compile.parity.report import FeatureParity, PreprocessingParity
from tt_edge.compile.vision.crossed.reference import crossed_features, is_crossed
from tt_edge.compile.vision.families import COORDINATES, has_grids
from tt_edge.compile.vision.features import all_tables, learned_tokens
from tt_edge.compile.vision.padded.flattened import FLATTENED_PATCHES
from tt_edge.compile.vision.padded.phi4 import IMAGE_PIXELS
from tt_edge.compile.vision.processing.written import on_canvas
from tt_edge.contract import IMAGE_FEATURES, KEPT_PLACES, TILE_PIXELS, deepstack_name
from tt_edge.errors import InvalidInputError, MissingDependencyError
from tt_edge.runtime.multimodal.images import ProcessedImage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.runtime.multimodal.encoder import VisionEncoder
    from tt_edge.runtime.multimodal.processor import MultimodalProcessor
    from tt_edge.runtime.text.chat_template import ChatTemplate
    from tt_edge.runtime.text.tokenizer import BundleTokenizer


def features_of(model: PreTrainedModel, pictures: Sequence[ProcessedImage]) -> dict[str, np.ndarray]:
    """Hugging Face's features of the images ``pictures``, fp32 ``[tokens, hidden]``, keyed by the names of the language
    network's feature tables."""
    if is_crossed(model):
        return crossed_features(model, pictures)
    inputs = cast(model_inputs(model, [[0]], pictures), model.dtype)
    taken = {name: inputs[name] for name in vision_inputs_of(model) if name in inputs}
    with torch.no_grad():
        out = tower_outputs(model, taken)
    tables = all_tables(out)
    if learned_tokens(model):
        tables[0] = _with_learned(tables[0], out.visual_indicator_features, pictures)
    names = [IMAGE_FEATURES, *(deepstack_name(level) for level in range(len(tables) - 1))]
    return {name: table.float().numpy() for name, table in zip(names, tables, strict=True)}


def own_features(
    model: PreTrainedModel, truth: PreTrainedModel, pictures: Sequence[ProcessedImage], exact: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The features that say how far PyTorch itself is from ``exact`` ones, those of ``truth``, the model in fp32."""
    if truth is not model:
        return features_of(model, pictures)
    return farthest_rounding(model, exact, lambda: features_of(model, pictures))


def _with_learned(features: torch.Tensor, learned: torch.Tensor, pictures: Sequence[ProcessedImage]) -> torch.Tensor:
    """Of the features of all tiles, and the learned rows, those of the tokens of ``pictures``."""
    tiles = sum(len(picture.pixels) for picture in pictures)
    each = features.reshape(tiles, -1, features.shape[-1])
    both = torch.cat([each, learned.to(each.dtype).expand(tiles, *learned.shape)], dim=1)
    rows, first = [], 0
    for picture in pictures:
        own = both[first : first + len(picture.pixels)].flatten(0, 1)
        rows.append(own if picture.rows is None else own[torch.from_numpy(picture.rows)])
        first += len(picture.pixels)
    return torch.cat(rows)


def compare_features(
    model: PreTrainedModel, truth: PreTrainedModel, encoder: VisionEncoder, pictures: Sequence[ProcessedImage]
) -> tuple[FeatureParity, ...]:
    """Compare the features of the captured vision network, with all images in one call if they fit, with the tower's.

    ``truth`` is the model in fp32, which may be ``model`` itself.
    """
    limit = encoder.session.contract.max_image_tokens
    together = [pictures] if sum(p.tokens for p in pictures) <= limit else [[picture] for picture in pictures]
    rows = []
    for given in together:
        encoder.forget()
        got, exact = encoder.encode(given), features_of(truth, given)
        own = own_features(model, truth, given, exact)
        follows = True
        if (places := got.pop(KEPT_PLACES, None)) is not None:
            rows_kept, follows = _kept_rows(exact[IMAGE_FEATURES], given, encoder.session.contract.tower.keep, places)
            exact = {name: table[rows_kept] for name, table in exact.items()}
            own = {name: table[rows_kept] for name, table in own.items()}
        for name, table in exact.items():
            norm = float(np.linalg.norm(table)) or 1.0  # of a model whose features are all for deeper levels
            error = float(np.linalg.norm(got[name].astype(np.float32) - table)) / norm
            rows.append(
                FeatureParity(
                    table=name,
                    pictures=len(given),
                    tokens=len(table),
                    relative_error=error if follows else float("inf"),
                    reference_error=float(np.linalg.norm(own[name] - table)) / norm,
                )
            )
    return tuple(rows)


def _kept_rows(
    features: np.ndarray, pictures: Sequence[ProcessedImage], keep: float, places: np.ndarray
) -> tuple[np.ndarray, bool]:
    """The rows of ``features`` of all images that are kept, by their places in their images; whether the rule keeps them."""
    counts = [picture.kept(keep) for picture in pictures]
    firsts = np.cumsum([0, *(picture.tokens for picture in pictures)])[:-1]
    rows = places + np.repeat(firsts, counts)
    groups = [tokens for picture in pictures for tokens in picture.groups]
    follows, first = True, 0
    for tokens in groups:
        own = rows[(rows >= first) & (rows < first + tokens)] - first
        table = torch.from_numpy(features[first : first + tokens])
        follows &= follows_rule(table, keep, torch.from_numpy(own.astype(np.int64)))
        first += tokens
    return rows, follows


def compare_preprocessing(
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    preprocessor: MultimodalProcessor,
    tokenizer: BundleTokenizer,
    template: ChatTemplate | None,
    images: Sequence[np.ndarray],
) -> PreprocessingParity | str:
    """Compare token ids and pixels of a prompt with ``images`` with the checkpoint's own processor; or say why not."""
    try:
        processor = processor_of(checkpoint)
    except MissingDependencyError as error:
        return str(error)
    if processor is None:
        return "its processor is code of the checkpoint"
    placeholders = preprocessor.placeholders
    if placeholders.leading:
        images, prompt = images[:1], "Question: what is this? Answer:"
    elif template is not None:
        parts = [*[{"type": "image"}] * len(images), {"type": "text", "text": "What is this?"}]
        prompt = template.render([{"role": "user", "content": parts}])
    else:
        prompt = f"{placeholders.in_prompt * len(images)} What is this?"
    if placeholders.before_text is not None:  # its processor writes what a template would
        prompt, template = f"{placeholders.in_prompt * len(images)}What is this?", None
    special = template is None or placeholders.leading
    try:
        theirs = processor_inputs(processor, prompt, images, add_special_tokens=special)
    except InvalidInputError:  # PerceptionLM's takes images together only if they have equally many tiles
        if len(images) == 1:
            raise
        return compare_preprocessing(checkpoint, model, preprocessor, tokenizer, template, images[:1])
    ids, processed = preprocessor.tokenize(tokenizer, prompt, images, add_special_tokens=special)
    wanted = _unpadded(theirs)
    if has_grids(model):  # patches in the order in which the model takes them
        ours = _unpadded(model_inputs(model, [ids], processed))
    else:
        ours = np.concatenate([image.pixels for image in processed])
    if wanted.ndim >= 5:  # images side by side, those of fewer tiles padded with zeros
        wanted = wanted.reshape(-1, *wanted.shape[-3:])
        wanted = on_canvas(torch.from_numpy(wanted[wanted.any(axis=(1, 2, 3))]), ours).numpy()
    steps = float("inf")
    if ours.size == wanted.size:
        std = np.asarray(getattr(processor.image_processor, "image_std", None) or [1.0] * 3, np.float32)
        # One std per channel: tiles are [n, 3, H, W]; patches are flattened rows [N, 3 * …].
        scale = std[:, None, None] if wanted.ndim == 4 else np.repeat(std, wanted.shape[-1] // len(std))
        steps = float((np.abs(ours.reshape(wanted.shape) - wanted) * scale).max() * 255)
    return PreprocessingParity(len(images), theirs["input_ids"][0].tolist() == ids, steps)


def _unpadded(inputs: Inputs) -> np.ndarray:
    """The pixels of ``inputs``, without patches that make images of several sizes equally large (Gemma 4)."""
    if FLATTENED_PATCHES in inputs:
        return inputs[FLATTENED_PATCHES][..., 2:].numpy()
    pixels, places = inputs.get(IMAGE_PIXELS, inputs.get(TILE_PIXELS)), inputs.get(COORDINATES)
    assert pixels is not None
    return (pixels if places is None else pixels[(places >= 0).all(-1)]).numpy()
