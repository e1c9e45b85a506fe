"""Features of deeper levels of a tower, which a decoder adds to the hidden states of image tokens between its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from tt_edge.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What decoders call the places of image tokens.
MASKS = ("visual_pos_masks", "vision_mask")


def deepstack_levels(model: PreTrainedModel) -> int:
    """The number of decoder layers that receive their own vision features."""
    vision = getattr(model.config, "vision_config", None)
    return len(_fed_layers(model)) or len(getattr(vision, "deepstack_visual_indexes", None) or ())


def _fed_layers(model: PreTrainedModel) -> tuple[int, ...]:
    """The layers before which features are added, where the configuration names them (Granite 4 Vision); else the first ones.

    Raises ``UnsupportedModelError`` for a layer that is named twice: the model keeps one of its features.
    """
    pairs = getattr(model.config, "deepstack_layer_map", None) or ()
    layers = tuple(layer for _, layer in pairs)
    layers += tuple(getattr(model.config, "spatial_target_layers", None) or ()) if pairs else ()
    if len(set(layers)) < len(layers):
        raise UnsupportedModelError(
            f"{type(model).__name__} adds features to the decoder layers {list(layers)}, of which one is named twice; no backend "
            "has this"
        )
    return layers


def rows_where(indices: Tensor, table: Tensor, otherwise: Tensor) -> Tensor:
    """Rows of ``table`` ``[N, H]`` at ``indices`` ``[B, S]``; for a negative index the row of ``otherwise`` ``[B, S, H]``."""
    rows = functional.embedding(indices.clamp(min=0), table)
    return torch.where((indices >= 0).unsqueeze(-1), rows, otherwise)


@contextmanager
def handed(model: PreTrainedModel, decoder: Any, indices: Tensor, tables: Sequence[Tensor]) -> Iterator[None]:
    """Within the block, calls of ``decoder`` have ``tables`` ``[N, H]``, to be added at ``indices`` ``[B, S]``.

    Its arguments are named as the model names them.
    """
    if not tables:
        yield
        return
    layers = _fed_layers(model)
    more: dict[str, Any] = {"visual_pos_masks": indices, "deepstack_visual_embeds": list(tables)}
    if layers:
        more = {"vision_mask": indices, "deepstack_features": dict(zip(layers, tables, strict=True))}
    with ExitStack() as stack:

        def before(module: Any, hook: Any, first: bool = False) -> None:
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True, prepend=first).remove)

        before(decoder, lambda _module, args, kwargs: (args, {**kwargs, **more}), first=True)
        if layers:  # the decoder's own code adds by boolean mask
            before(decoder, lambda _module, args, kwargs: (args, {k: v for k, v in kwargs.items() if k not in more}))
            for layer, table in zip(layers, tables, strict=True):
                before(decoder.layers[layer], partial(_before_layer, indices, table))
        yield


def _before_layer(
    indices: Tensor, table: Tensor, _layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (_add_rows(args[0], indices, table), *args[1:]), kwargs


@contextmanager
def placed_rows(decoder: Any, indices: Tensor, table: Tensor) -> Iterator[None]:
    """Within the block, the ``inputs_embeds`` of ``decoder`` have rows of ``table`` ``[N, H]`` at ``indices`` ``[B, S]``."""

    def place(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "inputs_embeds": rows_where(indices, table, kwargs["inputs_embeds"])}

    hook = decoder.register_forward_pre_hook(place, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def added_by_index(decoder: Any) -> Iterator[None]:
    """Within the block, a decoder that adds features of deeper levels by boolean mask adds them by index."""
    if not hasattr(decoder, "_deepstack_process"):
        yield
        return
    with patch.object(decoder, "_deepstack_process", _add_rows):
        yield


def _add_rows(hidden_states: Tensor, indices: Tensor, table: Tensor) -> Tensor:
    return hidden_states + rows_where(indices, table, torch.zeros_like(hidden_states))
