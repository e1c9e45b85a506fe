"""Where transformers' vision towers read the grids of their images, and how that is watched or answered.

Nearly all of it goes through the functions of ``transformers.vision_utils``. The rest is here, too: PyTorch's resampling of a
table of positions, Pixtral's mask, GLM-4.1V's embeddings.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tt_edge.compile.export.semantics import Segments
from tt_edge.contract.geometry import (
    BICUBIC,
    BICUBIC_ALIGNED,
    BILINEAR,
    BILINEAR_ALIGNED,
    BILINEAR_ANTIALIASED,
    BILINEAR_ZEROS,
)
from tt_edge.errors import UnsupportedModelError

#: By mode, corners aligned or not, a filter that widens or not, and what is beyond the edge.
_SAMPLINGS = {
    ("bilinear", True, False, "border"): BILINEAR_ALIGNED,
    ("bilinear", False, False, "border"): BILINEAR,
    ("bilinear", False, False, "zeros"): BILINEAR_ZEROS,
    ("bicubic", True, False, "border"): BICUBIC_ALIGNED,
    ("bicubic", False, False, "border"): BICUBIC,
    ("bilinear", False, True, "border"): BILINEAR_ANTIALIASED,
}


@dataclass
class Seen:
    """What a tower was seen to read: rows and columns of patches, a table of positions, windows. And which rows of its own it was
    seen to add: one at each line's end, one before and one behind each image's.
    """

    positions: bool = False
    window_tokens: int = 0
    table_side: int = 0
    sampling: str = BILINEAR_ALIGNED
    line_ends: bool = False
    image_ends: bool = False

    def table(
        self, side: int, mode: str, aligned: bool | None, *, antialias: bool = False, padding: str = "border"
    ) -> None:
        found = _SAMPLINGS.get((mode, bool(aligned), antialias, padding))
        if found is None or self.table_side not in (0, side):
            more = ["align_corners"] * bool(aligned) + ["antialias"] * antialias + [padding] * (padding != "border")
            how = ", ".join((mode, *more))
            raise UnsupportedModelError(
                f"the vision tower resamples its table of positions in a way that tt-edge does not follow ({how}); please "
                "report the model type"
            )
        self.table_side, self.sampling = side, found


@dataclass(frozen=True)
class Answers:
    """What a tower is told instead, as tensors for ``N`` patches that stand block by block of those that become one token.

    ``positions`` ``[N, 2]``; ``segments`` ``[N]``; ``windows`` ``[N]`` or ``[windows, patches of each]``; ``indices`` and
    ``weights`` of the table of positions ``[N, entries]``, the former ``None`` where there is a weight for each entry.
    """

    positions: Tensor | None
    segments: Tensor
    windows: Tensor | None = None
    indices: Tensor | None = None
    weights: Tensor | None = None
    merged: Tensor | None = None

    def sampled(self, table: Tensor) -> Tensor:
        """The positions ``[N, C]`` of a table ``[side * side, C]``, in fp32."""
        assert self.weights is not None
        if self.indices is None:
            return torch.mm(self.weights, table.float())
        return (functional.embedding(self.indices, table).float() * self.weights[:, :, None]).sum(1)


class Grids(np.ndarray):
    """Grids ``[images, 3]`` whose sizes may be symbols of the exporter: what of a tensor's methods the models use on them."""

    @classmethod
    def of(cls, rows: list[list[Any]]) -> Grids:
        return np.array(rows, dtype=object).view(cls)

    def prod(self, axis: int | None = None, *, dim: int | None = None, **_: Any) -> Any:  # type: ignore[override]
        return np.prod(np.asarray(self), axis=axis if dim is None else dim).view(Grids)

    def to(self, *_: Any, **__: Any) -> Grids:
        return self

    def unbind(self, dim: int = 0) -> list[Any]:
        return list(np.moveaxis(self, dim, 0))


@contextmanager
def watching(model: nn.Module, merge_size: int) -> Iterator[Seen]:
    """Within the block, ``Seen`` learns what the towers of ``model`` read; they compute what they always do.

    ``merge_size`` squared patches become a token.
    """
    seen = Seen()

    def position_ids(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.positions = True
            return original(*args, **kwargs)

        return call

    def window_index(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(original).bind(*args, **kwargs).arguments
            merged = given["spatial_merge_size"]
            side = given["window_size"] // merged // given["patch_size"] * merged  # of a window, in patches
            if side % merge_size:
                raise UnsupportedModelError(
                    f"the vision tower has windows of {side} patches, which are no whole tokens of {merge_size}; no backend has it"
                )
            seen.window_tokens = int(side // merge_size) ** 2
            return original(*args, **kwargs)

        return call

    def taps(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            bound = inspect.signature(original).bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            padding = given.get("padding", "border")
            seen.table(int(given["num_grid_per_side"]), given["mode"], given["align_corners"], padding=padding)
            return original(*args, **kwargs)

        return call

    def interpolate(
        x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None, antialias: bool = False,
    ) -> Tensor:  # fmt: skip
        if x.shape[-1] == x.shape[-2]:  # the grid that is watched is not square
            seen.table(int(x.shape[-1]), mode, align_corners, antialias=antialias)
        return _INTERPOLATE(x, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)

    def grid_sample(x: Tensor, grid: Tensor, mode: str, padding_mode: str, align_corners: bool | None = None) -> Tensor:
        seen.table(int(x.shape[-1]), mode, align_corners, padding=padding_mode)
        return _GRID_SAMPLE(x, grid, mode, padding_mode, align_corners)

    functions = {
        "get_vision_position_ids": position_ids,
        "get_vision_window_index": window_index,
        "get_vision_interpolation_indices_and_weights": taps,
    }
    with ExitStack() as stack:
        _patch_modules(stack, model, functions)
        for embedding in _named(model, "patch_positional_embedding"):
            stack.enter_context(patch.object(embedding, "forward", position_ids(embedding.forward)))
        stack.enter_context(patch.object(functional, "interpolate", interpolate))
        stack.enter_context(patch.object(functional, "grid_sample", grid_sample))
        yield seen


@contextmanager
def answering(model: nn.Module, answers: Answers, tall: tuple[Any, int]) -> Iterator[None]:
    """Within the block, what the towers of ``model`` read of grids is ``answers``, for one image of ``tall`` patches.

    Attention is called once for all segments, and windows are not reordered: the patches are in the order of windows already.
    """

    def say(answer: Any) -> Callable[[Any], Any]:
        return lambda _original: lambda *_args, **_kwargs: answer

    def interpolate(x: Tensor, size: Any = None, **kwargs: Any) -> Tensor:
        if answers.weights is not None and x.shape[-1] != tall[1]:  # a table of positions, not features
            rows = answers.sampled(x[0].flatten(1).transpose(0, 1))
            return rows.transpose(0, 1).reshape(1, -1, *tall)
        if x.shape[-1] == size[-1]:  # of a token for each patch
            return x if answers.merged is None else _means(x, answers.merged)
        return _halved(x, size, **kwargs)

    def embeddings(module: Any) -> Any:
        def forward(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
            table = module.position_embedding.weight
            return hidden + answers.sampled(table).to(table.dtype)

        return forward

    def rotary(module: Any) -> Any:
        original = module.forward
        return lambda x, _positions: original(x, answers.positions)

    def arranged(module: Any) -> Any:
        """Pixtral's convolution: ``[N, C, side, side]`` to the tall image ``[1, H, *tall]``."""
        original = module.forward
        return lambda patches: original(patches).flatten(1).transpose(0, 1).reshape(1, -1, *tall)

    functions = {
        "get_vision_position_ids": say(answers.positions),
        "get_vision_attention_seqlens": say((answers.segments, 1)),
        "get_vision_cu_seqlens": say(answers.segments),
        "get_vision_window_index": say((slice(None), answers.windows)),
        "get_vision_interpolation_indices_and_weights": say((answers.indices, answers.weights)),
        "get_vision_pixel_shuffle_index": say(_AsTheyStand()),
        "get_max_seqlen": say(1),
        "generate_block_attention_mask": say(Segments(answers.segments)),
        "is_flash_attention_requested": say(True),
    }
    pixtral = _named(model, "patch_positional_embedding")
    if pixtral:
        del functions["is_flash_attention_requested"]
    with ExitStack() as stack:
        _patch_modules(stack, model, functions)
        for embedding in pixtral:
            stack.enter_context(patch.object(embedding, "forward", rotary(embedding)))
        for convolution in _named(model, "patch_conv"):
            stack.enter_context(patch.object(convolution, "forward", arranged(convolution)))
        for module in model.modules():
            if hasattr(module, "interpolated_method"):
                stack.enter_context(patch.object(module, "forward", embeddings(module)))
        stack.enter_context(patch.object(functional, "interpolate", interpolate))
        stack.enter_context(patch.object(functional, "unfold", _unfold))
        stack.enter_context(patch.object(torch, "argsort", _argsort))
        stack.enter_context(patch.object(torch, "as_tensor", _as_tensor))
        stack.enter_context(patch.object(torch, "split", _one_piece(torch.split)))
        stack.enter_context(patch.object(Tensor, "split", _one_piece(Tensor.split)))
        yield


class _AsTheyStand:
    """An index of rows that are in its order already, as a tensor of the tower's."""

    def to(self, *_: Any, **__: Any) -> slice:
        return slice(None)


_INTERPOLATE, _GRID_SAMPLE = functional.interpolate, functional.grid_sample
_ARGSORT, _AS_TENSOR = torch.argsort, torch.as_tensor


def _argsort(x: Any, *args: Any, **kwargs: Any) -> Any:
    return x if isinstance(x, slice) else _ARGSORT(x, *args, **kwargs)


def _one_piece(original: Any) -> Any:
    """``split``, which returns its input for one piece: all images are one."""

    def split(x: Tensor, sizes: Any, dim: int = 0) -> Any:
        whole = not isinstance(sizes, int) and len(sizes) == 1
        return (x,) if whole else original(x, sizes, dim=dim)

    return split


def _means(x: Tensor, merged: Tensor) -> Tensor:
    """``x`` ``[1, C, N, 1]`` with, in each place, the mean of the patches that ``merged`` ``[N, patches]`` names."""
    rows = functional.embedding(merged, x[0, :, :, 0].transpose(0, 1)).mean(1)
    return rows.transpose(0, 1)[None, :, :, None]


def _halved(x: Tensor, size: Any, mode: str = "nearest", align_corners: bool | None = None, **_: Any) -> Tensor:
    """Bilinear resampling of ``x`` ``[1, C, h, 2]`` to half of its size, where each result is the mean of four."""
    if x.shape[-1] != 2 or size[-1] != 1 or mode != "bilinear" or align_corners:
        raise UnsupportedModelError(
            f"the vision tower resamples its features ({mode}) in a way that tt-edge does not follow; please report the model type"
        )
    return x.reshape(1, x.shape[1], -1, 4).mean(-1, keepdim=True)


def _unfold(x: Tensor, kernel_size: int, stride: int, **_: Any) -> Tensor:
    """``unfold`` of blocks that do not overlap, ``[1, C, h, w]`` to ``[1, C * kernel_size², blocks]``."""
    assert kernel_size == stride
    channels, height, width = x.shape[1:]
    apart = x.reshape(channels, height // stride, stride, width // stride, stride).permute(0, 2, 4, 1, 3)
    return apart.reshape(1, channels * stride * stride, -1)


def _as_tensor(data: Any, *args: Any, **kwargs: Any) -> Any:
    return data if isinstance(data, Grids) else _AS_TENSOR(data, *args, **kwargs)


def _named(model: nn.Module, ending: str) -> list[nn.Module]:
    return [module for name, module in model.named_modules() if name.rpartition(".")[2] == ending]


def _patch_modules(stack: ExitStack, model: nn.Module, functions: Mapping[str, Callable[[Any], Any]]) -> None:
    """Replace functions of the modeling modules of ``model`` by what ``functions`` make of them."""
    for module in _modeling_modules(model):
        for name, make in functions.items():
            if (original := module.__dict__.get(name)) is not None:
                stack.enter_context(patch.object(module, name, make(original)))


def _modeling_modules(model: nn.Module) -> list[ModuleType]:
    names = {type(layer).__module__ for layer in model.modules()}
    return [sys.modules[name] for name in sorted(names) if name in sys.modules]
