"""Finding out what a tower for grids needs, and proving that the host's inputs make the same features."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tt_edge.compile.export.semantics import semantic_attention
from tt_edge.compile.vision.families import rope_index
from tt_edge.compile.vision.grids.calls import Seen, watching
from tt_edge.compile.vision.grids.tower import GridTower, PatchInputs, feature_tables
from tt_edge.contract import IMAGE_TOKENS, WINDOWS, VisionGeometry
from tt_edge.errors import InvalidInputError, UnsupportedModelError, one_line
from tt_edge.runtime.multimodal.images.processed import Grid, ProcessedImage, Span
from tt_edge.runtime.multimodal.mrope import POSITIONS
from tt_edge.runtime.multimodal.vision_inputs import grid_inputs

#: The largest relative error of features in fp32, and in the types of 16 bits.
_EXACT, _HALF = 1e-3, 6e-2

#: What was found of a model and proven, so that it is done once.
_FOUND: WeakKeyDictionary[PreTrainedModel, tuple[PatchInputs, Seen]] = WeakKeyDictionary()


def grid_tower_of(model: PreTrainedModel, *, ragged: bool, film_merge: int = 0) -> tuple[GridTower, VisionGeometry]:
    """The tower of a model whose images are grids, and the geometry of its inputs. ``film_merge`` is that of ``VLMFamily``.

    Raises ``UnsupportedModelError``, naming the feature, where the tower reads of a grid what the host does not compute, or where
    the features of a few images are not those of the model's own ``get_image_features``.
    """
    known = _FOUND.get(model)
    if known is None:
        inputs = PatchInputs(model)
        known = inputs, _watched(model, inputs)
    inputs, seen = known
    window = seen.window_tokens
    geometry = VisionGeometry(
        family=str(model.config.model_type),
        unit=WINDOWS if window and not ragged else IMAGE_TOKENS,
        tokens_a_unit=1 if ragged else window or 1,
        merge_size=inputs.merge_size,
        patch_dim=inputs.patch_dim,
        window_tokens=window,
        position_table_side=seen.table_side,
        position_sampling=seen.sampling,
        ragged=ragged,
        line_ends=seen.line_ends,
        image_ends=seen.image_ends,
        film_merge=film_merge if inputs.merges and inputs.merge_size == 1 and film_merge > 1 else 0,
    )
    tower = GridTower(model, geometry, inputs, seen)
    if model in _FOUND:
        return tower, geometry
    far = max(4, int(window**0.5) + 2)
    for sizes in ([(3, far)], [(far, 2), (2, 4)]):
        _prove(model, tower, geometry, inputs, [_image(inputs, *size) for size in sizes])
    if rope_index(model) is not None:
        inputs.positions = _prove_positions(model, geometry, type(model).__name__)
    _FOUND[model] = known
    return tower, geometry


def patch_inputs_of(model: PreTrainedModel) -> PatchInputs:
    """How ``model`` takes the patches of images. Raises ``UnsupportedModelError`` as ``grid_tower_of`` does."""
    if model not in _FOUND:
        grid_tower_of(model, ragged=False)
    return _FOUND[model][0]


def _image(inputs: PatchInputs, rows: int, columns: int) -> ProcessedImage:
    """Noise, of so many image tokens."""
    grid = 1, rows * inputs.merge_size, columns * inputs.merge_size
    pixels = np.random.default_rng(rows).standard_normal((grid[1] * grid[2], inputs.patch_dim), np.float32)
    return ProcessedImage(pixels, grid, rows * columns)


def features_of_grids(model: PreTrainedModel, given: dict[str, Tensor]) -> list[Tensor]:
    """What the model itself makes of ``PatchInputs.of_images``: features ``[tokens, hidden]``, then those of deeper levels."""
    given = {name: each.to(model.dtype) if each.is_floating_point() else each for name, each in given.items()}
    with torch.no_grad():
        features: Any = model.get_image_features
        return feature_tables(features(**given, return_dict=True))


def _watched(model: PreTrainedModel, inputs: PatchInputs) -> Seen:
    """Run the tower on one image, with patches in a row and as small images; ``inputs`` says after which it takes."""
    rows, columns = 3, 2
    image, errors = _image(inputs, rows, columns), []
    for inputs.squares in (False, True):
        try:
            with watching(model, inputs.merge_size) as seen:
                features = features_of_grids(model, inputs.of_images([image]))
        except UnsupportedModelError:
            raise
        except Exception as error:
            errors.append(one_line(error))
            continue
        added = len(features[0]) - rows * columns
        seen.positions |= inputs.coordinates
        seen.line_ends, seen.image_ends = added in (rows, rows + 2), added in (2, rows + 2)
        return seen
    raise UnsupportedModelError(
        f"the vision tower of {type(model).__name__} does not run on patches of {inputs.patch_dim} numbers ({errors[0]:.160}); no "
        "backend has it"
    )


def _prove(
    model: PreTrainedModel,
    tower: GridTower,
    geometry: VisionGeometry,
    inputs: PatchInputs,
    images: Sequence[ProcessedImage],
) -> None:
    """Raise ``UnsupportedModelError`` unless ``tower`` makes the model's own features of ``images``.

    Where patches stand row by row is found by trying, once.
    """
    dtype, name = model.dtype, type(model).__name__
    found, rows = grid_inputs(geometry, images)
    try:
        with torch.no_grad(), semantic_attention(model):
            got = tower(**tower.given(found, dtype))
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"the vision tower of {name} reads the grid of an image in a way that tt-edge does not follow "
            f"({one_line(error):.160}); no backend has it"
        ) from error
    errors = []
    for raster in dict.fromkeys((inputs.raster, True)):
        inputs.raster = raster
        wanted = features_of_grids(model, inputs.of_images(images))
        if len(wanted[0]) != len(rows):
            raise UnsupportedModelError(
                f"the vision tower of {name} makes {len(wanted[0])} rows of features for {len(rows)} image tokens (ends of lines "
                "or of images), which no backend has"
            )
        errors.append(_error([table[rows] for table in got], wanted))
        if errors[-1] <= (_EXACT if dtype == torch.float32 else _HALF):
            return
    raise UnsupportedModelError(
        f"the vision tower of {name} makes other features of a grid than tt-edge's inputs do (relative error {min(errors):.2g}): "
        "it reads something else of an image's size; no backend has it"
    )


def _error(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    if [table.shape for table in got] != [table.shape for table in wanted]:
        return float("inf")
    return max(
        float((own.float() - theirs.float()).norm() / theirs.float().norm())
        for own, theirs in zip(got, wanted, strict=True)
    )


def _prove_positions(model: PreTrainedModel, geometry: VisionGeometry, name: str) -> str:
    """The rule of ``POSITIONS`` that gives the model's own, for text, one image and two.

    Raises ``UnsupportedModelError`` where none does.
    """
    function, merge, rules = rope_index(model), geometry.merge_size, list(POSITIONS)
    image_id = int(getattr(model.config, "image_token_id", 0))
    start = getattr(model.config, "vision_start_token_id", getattr(model.config, "image_start_token_id", None))
    text = next(index for index in range(5, 1000) if index not in (image_id, start))
    axes = 0
    for grids in ([(1, 3 * merge, 5 * merge)], [(1, 4 * merge, 2 * merge), (1, merge, 3 * merge)]):
        ids = [text, text]
        for _, rows, columns in grids:
            tokens = geometry.tokens_of(rows // merge, columns // merge)
            ids += [text if start is None else int(start), *[image_id] * tokens, text]
        is_image = [index == image_id for index in ids]
        given = {
            "input_ids": torch.tensor([ids]),
            "mm_token_type_ids": torch.tensor([is_image]).int(),
            "image_grid_thw": torch.tensor(grids),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
        }
        taken = inspect.signature(function).parameters
        try:
            positions, deltas = function(**{key: value for key, value in given.items() if key in taken})
        except Exception as error:
            raise UnsupportedModelError(
                f"{name} has positions on several axes (M-RoPE), and does not tell those of a prompt ({one_line(error):.160}); "
                "no backend has it"
            ) from error
        theirs, delta, axes = positions[:, 0].numpy(), int(deltas.flatten()[0]), len(positions)
        rules = [rule for rule in rules if _are(theirs, delta, rule, is_image, _spans(grids), merge)]
    if not rules:
        raise UnsupportedModelError(
            f"{name} places image tokens on {axes} axes of positions in another way than the Qwen-VL models (M-RoPE), or "
            "HunyuanOCR; no backend has it"
        )
    return rules[0]


def _are(theirs: np.ndarray, delta: int, rule: str, is_image: list[bool], spans: list[Span], merge: int) -> bool:
    """Whether positions ``[axes, S]`` and their ``delta`` are those of the ``rule``."""
    try:
        own, own_delta = POSITIONS[rule](is_image, spans, merge, axes=len(theirs))
    except InvalidInputError:  # other numbers of tokens than the rule's images have
        return False
    return own.shape == theirs.shape and bool((own == theirs).all()) and own_delta == delta


def _spans(grids: Sequence[Grid]) -> list[Span]:
    return [span for grid in grids for span in ProcessedImage(np.zeros((0, 0), np.float32), grid, 0).spans]
