"""Positions of encoder-decoders, as tables that the model itself computes once.

A decoder of these families counts its positions from the length of its cache, which is one number for a whole batch. In the
network each slot has its own: so learned and sinusoidal embeddings become a table that is looked up by ``position_ids``, and
T5's relative bias a table by distance (``tt_edge::relative_bias``). Both are read off the model's own modules, so offsets,
scales and the rounding of logarithmic buckets are right by construction.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

import tt_edge.plugins.ops.semantic  # noqa: F401  (defines an operator)
from tt_edge.compile.seq2seq.image_text import decoder_of
from tt_edge.compile.seq2seq.padding_positions import PositionCall
from tt_edge.errors import InvalidInputError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What the families call modules of absolute positions, and the method that computes a relative bias.
_EMBEDDINGS, _BIAS = ("embed_positions", "pos_sinusoidal_embed"), "compute_bias"


class _FoundError(Exception):
    """Carries a module's result, and how it was called, out of the model that called it."""


class Positions(nn.Module):
    """Tables of ``model``'s positions: of its encoder for ``source_len`` places (0: it has a fixed size and is traced as it is),
    of its decoder for ``max_seq_len``. ``speech`` is the longest source, where that is speech of any length: its encoder may have
    positions that are no table by place, which are traced as they are.

    ``refused_ids`` are token ids that a source must not have, because positions would not count them.

    Raises ``InvalidInputError`` for lengths beyond the model's, and ``UnsupportedModelError`` where the tables cannot be found.
    """

    def __init__(self, model: PreTrainedModel, source_len: int, max_seq_len: int, speech: Tensor | None = None) -> None:
        super().__init__()
        self._model = [model]  # a list: it is no submodule
        self._source_len = source_len
        self._padding: int | None = None
        self.refused_ids: tuple[int, ...] = ()
        encoder, decoder = model.get_encoder(), decoder_of(model)
        self._decoder_module = _embedding(decoder)
        self._encoder_module = _embedding(encoder) if speech is None else _absolute(encoder, speech, source_len)
        if self._encoder_module and source_len:
            table, call = _table(encoder, self._encoder_module, source_len, "max-source-len", speech)
            self.register_buffer("encoder_table", table, persistent=False)
            if speech is None and (padding := call.padding()) is not None:
                self.refused_ids = (padding,)
        if self._decoder_module:
            states = torch.zeros(1, 1, _width(model), dtype=model.dtype)
            table, call = _table(
                decoder, self._decoder_module, max_seq_len, "max-seq-len", encoder_hidden_states=states
            )
            self.register_buffer("decoder_table", table, persistent=False)
            if (padding := call.padding()) is not None:
                self._padding = padding
                self.register_buffer("padding_table", call.padding_table(padding, max_seq_len), persistent=False)
        self._biased: list[tuple[nn.Module, str]] = []
        for owner, length in ((encoder, source_len), (decoder, max_seq_len)):
            for module in owner.modules() if length else ():
                if getattr(module, "has_relative_attention_bias", False) and hasattr(module, _BIAS):
                    name = f"bias_{len(self._biased)}"
                    self.register_buffer(name, _bias_table(module, length), persistent=False)
                    self._biased.append((module, name))

    @property
    def has_bias(self) -> bool:
        """Whether attention has a bias by distance."""
        return bool(self._biased)

    @contextmanager
    def of_encoder(self) -> Iterator[None]:
        """Within the block, positions are those of tokens 0, 1, 2, …"""
        with self._relative():
            if not self._encoder_module or not self._source_len:
                yield
                return
            table: Any = self.encoder_table

            def forward(_module: nn.Module, like: Any) -> Tensor:
                return functional.embedding(torch.arange(_length(like)).unsqueeze(0), table)

            with _replaced(self._encoder_module, forward):
                yield

    @contextmanager
    def of_decoder(self, position_ids: Tensor) -> Iterator[None]:
        """Within the block, positions are ``position_ids`` ``[B, S]``."""
        with self._relative():
            if not self._decoder_module:
                yield
                return

            def forward(_module: nn.Module, ids: Any) -> Tensor:
                table: Any = self.decoder_table
                found = functional.embedding(position_ids, table)
                if self._padding is None:
                    return found
                of_padding: Any = self.padding_table
                is_padding = (ids == self._padding).unsqueeze(-1)
                return torch.where(is_padding, functional.embedding(position_ids, of_padding), found)

            with _replaced(self._decoder_module, forward):
                yield

    @contextmanager
    def _relative(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module, name in self._biased:
                table = getattr(self, name)

                def bias(query_length: Any, key_length: Any, *_: Any, table: Tensor = table, **__: Any) -> Tensor:
                    found: Tensor = torch.ops.tt_edge.relative_bias(table, query_length, key_length)
                    return found

                stack.enter_context(patch.object(module, _BIAS, bias))
            yield


def _width(model: PreTrainedModel) -> int:
    """The width of the hidden states that the decoder takes."""
    decoder = decoder_of(model)
    config = getattr(decoder, "config", model.config)
    return int(getattr(config, "cross_attention_hidden_size", None) or config.hidden_size)


def _embedding(owner: nn.Module) -> nn.Module | None:
    found = [module for name, module in owner.named_modules() if name.rpartition(".")[2] in _EMBEDDINGS]
    if len(found) > 1:
        raise UnsupportedModelError(
            f"{type(owner).__name__} has {len(found)} modules of positions, and tt-edge knows models with one"
        )
    return found[0] if found else None


def _absolute(encoder: Any, speech: Tensor, places: int) -> nn.Module | None:
    """The encoder's module of positions, if it gives an embedding for each place: not those of distances."""
    found: list[nn.Module] = []

    def called(module: nn.Module, _args: Any, result: Any) -> None:
        if isinstance(result, Tensor) and result.ndim == 3 and result.shape[:2] == (1, places):
            found.append(module)

    modules = [module for name, module in encoder.named_modules() if name.rpartition(".")[2] in _EMBEDDINGS]
    handles = [module.register_forward_hook(called) for module in modules]
    try:
        if modules:
            with torch.no_grad():
                encoder(speech)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if len(found) == 1 else None


def _table(
    owner: Any, module: nn.Module, length: int, option: str, speech: Tensor | None = None, **inputs: Any
) -> tuple[Tensor, PositionCall]:
    """The embeddings ``[length, H]`` of positions 0, 1, 2, …, as ``owner`` gets them from ``module``, and its call."""

    def found(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        raise _FoundError(result, args, kwargs)

    pad = getattr(getattr(owner, "config", None), "pad_token_id", None)  # a model may not count padding
    tokens = torch.full((1, length), 0 if pad != 0 else 1, dtype=torch.int64)
    handle = module.register_forward_hook(found, with_kwargs=True)
    try:
        with torch.no_grad():
            if speech is not None:
                owner(speech)
            elif inputs:
                owner(tokens, use_cache=False, **_required(owner), **inputs)
            else:
                owner(tokens)
    except _FoundError as result:
        table, args, kwargs = result.args
        return table.reshape(-1, table.shape[-1])[-length:].clone(), PositionCall(module, args, kwargs)
    except TypeError as error:
        raise UnsupportedModelError(
            f"{type(owner).__name__} cannot be called with tokens only, so that tt-edge does not find its positions"
        ) from error
    except (IndexError, RuntimeError, ValueError) as error:
        raise InvalidInputError(
            f"{type(owner).__name__} has no embeddings for {length} positions; compile with a lower --{option}"
        ) from error
    finally:
        handle.remove()
    raise UnsupportedModelError(f"{type(owner).__name__} does not call its module of positions")


def _required(owner: nn.Module) -> dict[str, None]:
    """What a decoder must be given beside tokens and a source: masks, of which it may get none (FSMT)."""
    parameters = list(inspect.signature(owner.forward).parameters.values())[1:]
    named = (each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD and each.default is each.empty)
    return dict.fromkeys(each.name for each in named if each.name != "encoder_hidden_states")


def _bias_table(module: Any, length: int) -> Tensor:
    """The bias ``[2 * length - 1, H]`` by distance key - query, from -(length - 1) on."""
    try:
        with torch.no_grad():
            bias: Tensor = module.compute_bias(1, 2 * length - 1, past_seen_tokens=length - 1)  # [1, H, 1, 2 N - 1]
    except TypeError as error:
        raise UnsupportedModelError(
            f"{type(module).__name__} has relative positions of blocks or of a kind of its own, and tt-edge knows T5's"
        ) from error
    return bias[0, :, 0].transpose(0, 1).contiguous()


def _length(like: Any) -> Any:
    """The number of tokens, from what a family passes to its positions: ids ``[B, S]``, or their shape."""
    return like.shape[1] if isinstance(like, Tensor) else like[1]


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Tensor]) -> Iterator[None]:
    with patch.object(module, "forward", lambda *args, **_: forward(module, *args[:1])):
        yield
