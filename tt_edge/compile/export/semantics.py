"""Temporary patches that make a Hugging Face model emit semantic operators while it is exported.

Attention goes through transformers' own ``AttentionInterface``. RoPE is a function of the modeling module; it is
replaced only after it has been compared with the semantic operator on random numbers, so a family with another rotary
layout is traced as its own arithmetic and never mistranslated.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers import AttentionInterface, PreTrainedModel

from tt_edge.compile.export.masks import Visibility, visible_masks
from tt_edge.errors import UnsupportedModelError
from tt_edge.plugins.ops import native, semantic  # noqa: F401  (define operators)

ATTENTION_NAME = "tt_edge"

#: Keyword arguments of attention functions that change nothing in a traced decoder pass.
_HARMLESS = frozenset(
    {
        "cache_position",
        "is_causal",
        "logits_to_keep",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)


@dataclass(frozen=True)
class Segments:
    """A stand-in for the mask of a vision tower whose patches see those of equal ``numbers`` ``[N]``."""

    numbers: Tensor


class SeenKeys(NamedTuple):
    """A stand-in for a mask that is computed in the network: the keys that each query sees, boolean ``[B, 1, S, T]``.

    Attention is 0 where a query is not ``there``, boolean ``[B, S]``; ``None``: all are.
    """

    mask: Tensor
    there: Tensor | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention ``[B, S, Hq, D]``, with K and V not repeated."""
        out: Tensor = torch.ops.tt_edge.masked_attention(query * scale, key, value, self.mask).transpose(1, 2)
        return out if self.there is None else torch.where(self.there[:, :, None, None], out, torch.zeros_like(out))


def _attention_function(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Visibility | Segments | SeenKeys | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Called by transformers instead of SDPA, with K and V not repeated; the result is ``[B, S, Hq, D]``."""
    bias = kwargs.pop("position_bias", None)  # T5's, added to scores
    segments = kwargs.pop("cu_seq_lens_q", None)
    if isinstance(attention_mask, Segments):
        segments, attention_mask = attention_mask.numbers, None
    if segments is not None:  # of a vision tower: ``tt_edge.compile.vision.grids`` passes segments in its place
        scale = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
        return torch.ops.tt_edge.segment_attention(query, key, value, segments, scale).transpose(1, 2), None
    if isinstance(attention_mask, SeenKeys):
        scale = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
        return attention_mask.attend(query, key, value, scale), None
    if isinstance(attention_mask, Tensor):
        raise UnsupportedModelError(
            f"{type(module).__name__} builds its own attention mask, which tt-edge does not translate; "
            "only causal and sliding-window attention is supported"
        )
    if extra := sorted(k for k, v in kwargs.items() if v is not None and k not in _HARMLESS):
        raise UnsupportedModelError(
            f"{type(module).__name__} passes {', '.join(extra)} to attention, which tt-edge does not translate"
        )
    if attention_mask is None:
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        # Without a mask, what is not causal sees everything, whatever window is meant for other kernels.
        attention_mask = Visibility(bool(causal), int(sliding_window or 0) if causal else 0)
    out = torch.ops.tt_edge.attention(
        query,
        key,
        value,
        float(query.shape[-1] ** -0.5 if scaling is None else scaling),
        attention_mask.causal,
        attention_mask.window,
        float(softcap or 0.0),
        s_aux,
        bias,
        attention_mask.ahead,
    )
    return out.transpose(1, 2), None


def own_attention(what: str) -> UnsupportedModelError:
    """The refusal of a model, called ``what``, whose attention is not where ``semantic_attention`` finds it."""
    return UnsupportedModelError(
        f"{what} computes attention by itself, not through transformers' attention interface, which is where tt-edge finds it "
        "(ALiBi, state-space and older models); no backend has it"
    )


@contextmanager
def semantic_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, route the model's attention through ``tt_edge::attention``; masks are interpreted, not traced."""
    AttentionInterface.register(ATTENTION_NAME, _attention_function)
    # Each part has its own: Gemma 2 has no SDPA, and in PaliGemma 2 the tower has.
    before = [(config, config._attn_implementation) for config in _configs(model)]
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        with visible_masks(ATTENTION_NAME):
            yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation


def _configs(model: PreTrainedModel) -> list[Any]:
    """The configurations of a model and of all its parts."""
    found: dict[int, Any] = {}
    waiting: list[Any] = [part.config for part in model.modules() if isinstance(part, PreTrainedModel)]
    while waiting:
        config = waiting.pop()
        if config is not None and id(config) not in found:
            found[id(config)] = config
            waiting += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())


def _modeling_modules(model: nn.Module) -> list[ModuleType]:
    """Modules whose global ``apply_rotary_pos_emb`` the model's layers call."""
    names = {type(layer).__module__ for layer in model.modules()}
    modules = (sys.modules[name] for name in sorted(names) if name in sys.modules)
    return [m for m in modules if callable(getattr(m, "apply_rotary_pos_emb", None))]


def _matching_layout(original: Callable[..., Any], head_dim: int, rotary_dim: int) -> bool | None:
    """The pairing of the model's rotary function ``(query, key, cos, sin)``, or of one that rotates one tensor ``(x, cos, sin)``:
    False for halves, True for neighbours, ``None`` for another.
    """
    generator = torch.Generator().manual_seed(0)
    operands = torch.randn(2, 1, 2, 3, head_dim, generator=generator, dtype=torch.float64)
    if "x" in inspect.signature(original).parameters:
        operands = operands[:1]
    angles = torch.randn(1, 3, rotary_dim // 2, generator=generator, dtype=torch.float64)
    cos, sin = (torch.cat([t, t], dim=-1) for t in (angles.cos(), angles.sin()))
    try:
        found = original(*operands, cos, sin)
    except (RuntimeError, TypeError, ValueError):
        return None
    want = (found,) if isinstance(found, Tensor) else found
    for interleaved in (False, True):
        got = tuple(semantic.rotary_embedding(t, cos, sin, interleaved) for t in operands)
        if all(w.shape == g.shape and torch.allclose(w, g, atol=1e-9) for w, g in zip(want, got, strict=True)):
            return interleaved
    return None


def _semantic_rotary(original: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """A replacement of a modeling module's ``apply_rotary_pos_emb`` that emits the semantic operator if possible."""
    signature = inspect.signature(original)
    layouts: dict[tuple[int, int], bool | None] = {}

    def apply_rotary_pos_emb(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        query, key, cos, sin = (bound.arguments[name] for name in ("q", "k", "cos", "sin"))
        plain = cos.ndim == 3 and query.ndim == 4 and bound.arguments.get("unsqueeze_dim", 1) == 1
        if not plain:
            return original(*args, **kwargs)
        dims = int(query.shape[-1]), int(cos.shape[-1])
        if dims not in layouts:
            with _disable_current_modes():  # real numbers, not the exporter's fake tensors
                layouts[dims] = _matching_layout(original, *dims)
        interleaved = layouts[dims]
        if interleaved is None:
            return original(*args, **kwargs)
        rotary = torch.ops.tt_edge.rotary_embedding
        return rotary(query, cos, sin, interleaved), rotary(key, cos, sin, interleaved)

    return apply_rotary_pos_emb


def _semantic_rotary_of_one(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Likewise of one that rotates one tensor, with heads before or behind the tokens (Gemma 3n, Gemma 4)."""
    signature = inspect.signature(original)
    layouts: dict[tuple[int, int], bool | None] = {}

    def apply_rotary_pos_emb(*args: Any, **kwargs: Any) -> Tensor:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        x, cos, sin = (bound.arguments[name] for name in ("x", "cos", "sin"))
        heads = bound.arguments.get("unsqueeze_dim", 1)
        if cos.ndim != 3 or x.ndim != 4 or heads not in (1, 2):
            return original(*args, **kwargs)
        dims = int(x.shape[-1]), int(cos.shape[-1])
        if dims not in layouts:
            with _disable_current_modes():  # real numbers, not the exporter's fake tensors
                layouts[dims] = _matching_layout(original, *dims)
        if (interleaved := layouts[dims]) is None:
            return original(*args, **kwargs)
        rotary = torch.ops.tt_edge.rotary_embedding
        before = x if heads == 1 else x.transpose(1, 2)
        rotated: Tensor = rotary(before, cos, sin, interleaved)
        return rotated if heads == 1 else rotated.transpose(1, 2)

    return apply_rotary_pos_emb


@contextmanager
def semantic_rotary(model: nn.Module) -> Iterator[None]:
    """Make the model's rotary function emit ``tt_edge::rotary_embedding`` for the duration of the block."""
    with ExitStack() as stack:
        for module in _modeling_modules(model):
            original = module.apply_rotary_pos_emb
            taken = set(inspect.signature(original).parameters)
            if {"q", "k", "cos", "sin"} <= taken:
                stack.enter_context(patch.object(module, "apply_rotary_pos_emb", _semantic_rotary(original)))
            elif {"x", "cos", "sin"} <= taken:
                stack.enter_context(patch.object(module, "apply_rotary_pos_emb", _semantic_rotary_of_one(original)))
        yield


@contextmanager
def constant_rope(model: PreTrainedModel, max_seq_len: int) -> Iterator[None]:
    """Hold the rotary frequencies of length-dependent RoPE types at their short-sequence values.

    ``dynamic`` and ``longrope`` change every position's frequencies once a sequence outgrows the original context
    (transformers, ``dynamic_rope_update``), which a table in an engine cannot follow: keys already in the cache would
    have to be rotated again. Up to that length the frequencies are constant and the result is exact, so a model
    compiled for no more than that is accepted and any other refused.
    """
    modules = [m for m in model.modules() if isinstance(getattr(m, "rope_type", None), str | dict)]
    with ExitStack() as stack:
        for module in modules:
            kinds = module.rope_type.values() if isinstance(module.rope_type, dict) else [module.rope_type]
            varying = sorted({k for k in kinds if "dynamic" in k or k == "longrope"})
            if not varying:
                continue
            limit = _original_context(module, model)
            if max_seq_len > limit:
                raise UnsupportedModelError(
                    f"RoPE type {varying[0]!r} changes its frequencies past {limit} tokens, which an engine's table cannot "
                    f"follow, and max_seq_len is {max_seq_len}; compile with --max-seq-len {limit} or less"
                )
            fixed = dict.fromkeys(module.rope_type, "default") if isinstance(module.rope_type, dict) else "default"
            stack.enter_context(patch.object(module, "rope_type", fixed))
        yield


def _original_context(module: nn.Module, model: PreTrainedModel) -> int:
    config = getattr(module, "config", model.config)
    parameters = getattr(config, "rope_parameters", None) or {}
    original = parameters.get("original_max_position_embeddings") if isinstance(parameters, dict) else None
    return int(original or config.max_position_embeddings)
