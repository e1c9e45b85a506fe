"""The registry of engine inputs, by name. Torch-free.

A new input is one entry here. The entry determines its shape in the contract, its range in each optimization profile, the
size of its buffer, and its content in each step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache

import numpy as np

from tt_edge.contract import symbols as s
from tt_edge.contract.seen_tiles import tiles_from, tiles_until
from tt_edge.contract.step import Step
from tt_edge.contract.symbols import Scope, Sizes, Symbol
from tt_edge.dtypes import DType

#: Arrays by input name.
Feeds = dict[str, np.ndarray]


class FedBy(Enum):
    """Who provides an input's content."""

    #: Every step: computed by ``EngineInput.feed``.
    STEP = "step"
    #: The KV cache: the session keeps it, and the network updates it.
    CACHE = "cache"
    #: A table of image features: written when a prompt has images, not in every step.
    TABLE = "table"
    #: The images of a call of the vision tower: ``tt_edge.runtime.multimodal.vision_inputs``.
    IMAGES = "images"
    #: The source of one or more requests, for a call of an encoder: text, speech, pages.
    SOURCE = "source"
    #: Keys and values of a slot's source: written when its request is admitted, not in every step.
    CROSS = "cross"
    #: NVIDIA's Edge-LLM runtime only; tt-edge's runtime cannot provide it.
    EDGE_LLM = "edge-llm"


@dataclass(frozen=True)
class EngineInput:
    """One engine input, or a family of them with a number in their names: ``past_key_{i}``.

    ``dtype`` is ``None`` where it is the model's. ``shape`` has a symbol in each place whose size may vary from call to call,
    and ``None`` for sizes of the model; an input with more dimensions than that has more of the model's in front.
    ``feed`` computes what is fed in a step. ``values`` are of a shape tensor, int64 in host memory: the range of its value.
    ``produced`` is the shape where another part makes the tensor.
    """

    name: str
    dtype: DType | None
    shape: tuple[Symbol | None, ...]
    fed_by: FedBy
    feed: Callable[[Step], np.ndarray] | None = None
    values: Callable[[Scope], Sizes] | None = None
    produced: tuple[Symbol | None, ...] = ()

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.name).replace(r"\{i\}", r"\d+"))

    def matches(self, name: str) -> bool:
        return self._pattern.fullmatch(name) is not None

    def named(self, index: int) -> str:
        """The name of one member of a family."""
        return self.name.format(i=index)

    def symbols(self, rank: int) -> tuple[str | None, ...]:
        """The symbol in each of ``rank`` dimensions, ``None`` for sizes of the model."""
        names = tuple(symbol.name if symbol is not None else None for symbol in self.shape)
        return (None,) * (rank - len(names)) + names


#: The range of this step's tokens in the cache, from ``start_idx`` up to ``end_idx``, in all slots.
START, END = "start_idx", "end_idx"

#: Features of a prompt's images: ``image_features`` ``[rows, hidden]``, and for each of the first decoder layers of Qwen3-VL
#: ``deepstack_features_i``, what it adds at the places of images. ``image_indices`` int32 ``[B, S]`` says which row stands in for
#: a token's embedding, and -1 that none does.
IMAGE_FEATURES, IMAGE_INDICES = "image_features", "image_indices"
#: Of models in which the tokens of a block see each other in both directions: the place up to which each token sees, exclusive,
#: int32 ``[B, S]``. Blocks are runs of tokens whose image index is not -1; -2 is text in a block.
VISIBLE_UNTIL, TEXT_IN_BLOCK = "visible_until", -2
#: Of models that see images by cross-attention: for each layer that does, the keys and values of a slot's images ``[B, H, T, D]``,
#: which the tower makes as rows ``[rows, H * D]``; and which tiles each token sees, int32 ``[B, S]``
#: (``tt_edge.contract.seen_tiles``).
IMAGE_KEY, IMAGE_VALUE = "image_key_{i}", "image_value_{i}"
TILES_FROM, TILES_UNTIL = "tiles_from", "tiles_until"
_DEEPSTACK = "deepstack_features_{i}"


def image_cache_names(layers: int) -> list[str]:
    """The names of images' keys and values of all layers with cross-attention, in order."""
    return [name.format(i=layer) for layer in range(layers) for name in (IMAGE_KEY, IMAGE_VALUE)]


def deepstack_name(level: int) -> str:
    """The feature table of the decoder layer ``level`` (Qwen3-VL)."""
    return _DEEPSTACK.format(i=level)


#: Inputs that only NVIDIA's Edge-LLM runtime provides: token embeddings instead of ids, indices of last tokens, the rotary table.
INPUTS_EMBEDS, LAST_TOKEN_IDS, ROPE_TABLE = "inputs_embeds", "last_token_ids", "rope_rotary_cos_sin"

#: An encoder's inputs: token ids ``[B, T]`` with the number of valid ones in each row; or mel features ``[B, mels, frames]`` of
#: fixed size; or pages ``[B, 3, H, W]``; or speech of any length, without padding: features ``[B, frames, width]`` or samples
#: ``[B, n]``.
SOURCE_IDS, SOURCE_LENGTHS = "source_ids", "source_lengths"
INPUT_FEATURES, PAGE_PIXELS = "input_features", "page_pixels"
#: Beside pages before a text: ``[B, Q]``, the text in tokens of a tokenizer of its own, which features of the image depend on.
QUESTION_IDS = "question_ids"
SPEECH_FEATURES, SPEECH_SAMPLES = "speech_features", "speech_samples"
#: A decoder's: for each layer the keys and values of its attention to the source, ``[B, H, T, D]``, which the encoder part makes,
#: and how many of the T places of each slot are in use.
CROSS_KEY, CROSS_VALUE, CROSS_LENGTHS = "cross_key_{i}", "cross_value_{i}", "cross_lengths"


def cross_names(layers: int) -> list[str]:
    """The names of the keys and values of all decoder layers, in order."""
    return [name.format(i=layer) for layer in range(layers) for name in (CROSS_KEY, CROSS_VALUE)]


#: The input of towers that take tiles, and that of the same tiles in a higher resolution, for a second tower.
TILE_PIXELS, HIGH_RES_PIXELS = "pixel_values", "high_res_pixel_values"
#: Of towers that take whole images: the tiles of each, the number of its arrangement of rows and columns, which tiles it has.
CANVAS_PIXELS, ASPECT_RATIO_IDS, ASPECT_RATIO_MASK = "canvas_pixels", "aspect_ratio_ids", "aspect_ratio_mask"
#: Of towers whose tiles may be partly padding: the rows and columns of patches of each that are not, int64 ``[tiles, 2]``.
TILE_EDGES = "tile_edges"
#: Of towers that take patches: their numbers, and the row and the column of each.
PATCHES, PATCH_POSITIONS = "patches", "patch_positions"
#: Of each row of features, the patches whose mean it is, where those of videos are merged (``VisionGeometry.film_merge``).
MERGED_PATCHES = "merged_patches"
#: Of towers that read the text of a prompt with each tile: its token ids, as many for all tiles of a call.
INSTRUCTION_IDS = "instruction_ids"
#: Of ragged towers: where each tile begins, and the end.
CU_TILES = "cu_tiles"
#: Of ragged towers: which offsets tell the same as numbers of segments and windows for every patch.
OFFSETS_OF = {"segment_ids": "cu_seqlens", "window_ids": "cu_window_seqlens"}


#: Of towers that drop image tokens: for each token its frame or tile, its place among the image tokens of the call, how many of its
#: frame's or tile's are kept, and its row; int32 ``[units, tokens, 4]``. Then a number for each row that is returned, and what the
#: tower returns beside the features, the place of each kept token.
PRUNING_PLAN, KEPT_ROWS, KEPT_PLACES = "pruning_plan", "kept_rows", "kept_places"


def _positions(step: Step) -> np.ndarray:
    axes = step.contract.position_axes
    if step.positions is not None:
        return step.positions if axes > 1 else step.positions[0]
    places = step.past[:, None]
    if step.width > 1:
        places = places + np.arange(step.width)
    return np.broadcast_to(places, (axes, *places.shape)) if axes > 1 else places


def _cross_lengths(step: Step) -> np.ndarray:
    """At least 1: a slot without a source computes what nobody reads, and attention to nothing is not defined."""
    lengths = np.zeros(step.batch, np.int32) if step.cross_lengths is None else step.cross_lengths
    return np.maximum(lengths, 1)


def _image_indices(step: Step) -> np.ndarray:
    return np.full(step.input_ids.shape, -1) if step.image_indices is None else step.image_indices


def _visible_until(step: Step) -> np.ndarray:
    """Of a token alone its place plus 1; of a token in a block the block's end: a run of tokens whose index is not -1."""
    places = np.arange(step.width)
    ends = np.broadcast_to(places + 1, step.input_ids.shape)
    if step.image_indices is not None:
        inside = step.image_indices != -1
        outside = np.where(inside, step.width, places)
        behind = np.minimum.accumulate(outside[:, ::-1], axis=1)[:, ::-1]
        ends = np.where(inside, behind, ends)
    return step.past[:, None] + ends


def _page_table(step: Step) -> np.ndarray:
    """Every slot has the pages after those of the previous slot; the numbers of V's pages continue after K's."""
    pages = step.contract.input("kv_page_table").shape[2]
    assert isinstance(pages, int)
    numbers = (step.first_slot * pages + np.arange(step.batch * pages)).reshape(step.batch, 1, pages)
    return np.concatenate([numbers, numbers + step.contract.max_batch * pages], axis=1)


def _first_past(scope: Scope) -> Sizes:
    capacity = scope.limits.max_seq_len
    return 0, capacity // 2 if scope.generates else 0, capacity - 1


def _end(scope: Scope) -> Sizes:
    start = _first_past(scope)[1]
    # TensorRT checks that the optimum shapes agree.
    return 1, start + s.SEQUENCE.sizes(scope)[1], scope.limits.max_seq_len


def _of_step(
    name: str, dtype: DType, shape: tuple[Symbol | None, ...], feed: Callable[[Step], np.ndarray]
) -> EngineInput:
    return EngineInput(name, dtype, shape, FedBy.STEP, feed)


def _per_row(name: str, feed: Callable[[Step], np.ndarray], dtype: DType = DType.INT32) -> EngineInput:
    return _of_step(name, dtype, (s.BATCH,), feed)


def _of_tower(name: str, dtype: DType | None, *shape: Symbol | None) -> EngineInput:
    return EngineInput(name, dtype, shape, FedBy.IMAGES)


_TOKENS = (s.BATCH, s.SEQUENCE)
_TABLE = (None, None)
_ROWS_MADE = (s.FEATURE_ROWS, None)
_CROSS, _CROSS_MADE = (s.BATCH, None, None, None), (s.BATCH, None, s.SOURCE, None)

REGISTRY: list[EngineInput] = [
    _of_step("input_ids", DType.INT64, _TOKENS, lambda step: step.input_ids),
    _of_step("position_ids", DType.INT64, _TOKENS, _positions),  # of M-RoPE [3, B, S]
    _per_row("write_indices", lambda step: step.past),
    _per_row("last_token_indices", lambda step: np.maximum(step.lengths - 1, 0), DType.INT64),
    EngineInput("past_key_{i}", None, (s.BATCH, None, None, None), FedBy.CACHE),
    EngineInput("past_value_{i}", None, (s.BATCH, None, None, None), FedBy.CACHE),
    # A cache that passes through the network. All slots have pasts of equal length.
    EngineInput(START, DType.INT64, (None,), FedBy.STEP, lambda step: step.past[:1], _first_past),
    EngineInput(END, DType.INT64, (None,), FedBy.STEP, lambda step: step.past[:1] + step.width, _end),
    # Of vision-language models.
    _of_step(IMAGE_INDICES, DType.INT32, _TOKENS, _image_indices),
    _of_step(VISIBLE_UNTIL, DType.INT32, _TOKENS, _visible_until),
    EngineInput(IMAGE_FEATURES, None, _TABLE, FedBy.TABLE, produced=_ROWS_MADE),
    EngineInput(_DEEPSTACK, None, _TABLE, FedBy.TABLE, produced=_ROWS_MADE),
    EngineInput(IMAGE_KEY, None, _CROSS, FedBy.CROSS, produced=_ROWS_MADE),
    EngineInput(IMAGE_VALUE, None, _CROSS, FedBy.CROSS, produced=_ROWS_MADE),
    _of_step(TILES_FROM, DType.INT32, _TOKENS, lambda step: tiles_from(_image_indices(step))),
    _of_step(TILES_UNTIL, DType.INT32, _TOKENS, lambda step: tiles_until(_image_indices(step))),
    # Of encoder-decoders: the encoder's, then the decoder's.
    EngineInput(SOURCE_IDS, DType.INT64, (s.BATCH, s.SOURCE), FedBy.SOURCE),
    EngineInput(SOURCE_LENGTHS, DType.INT32, (s.BATCH,), FedBy.SOURCE),
    EngineInput(INPUT_FEATURES, None, (s.BATCH, None, None), FedBy.SOURCE),
    EngineInput(PAGE_PIXELS, None, (s.BATCH, None, None, None), FedBy.SOURCE),
    EngineInput(QUESTION_IDS, DType.INT64, (s.BATCH, s.QUESTION), FedBy.SOURCE),
    EngineInput(SPEECH_FEATURES, None, (s.BATCH, s.FRAMES, None), FedBy.SOURCE),
    EngineInput(SPEECH_SAMPLES, None, (s.BATCH, s.FRAMES), FedBy.SOURCE),
    EngineInput(CROSS_KEY, None, _CROSS, FedBy.CROSS, produced=_CROSS_MADE),
    EngineInput(CROSS_VALUE, None, _CROSS, FedBy.CROSS, produced=_CROSS_MADE),
    _per_row(CROSS_LENGTHS, _cross_lengths),
    # The attention plugin's: plugins/edgellm/contracts.py. Its cache is a tensor a layer, by rows or a pool of pages.
    EngineInput("past_key_values_{i}", None, (s.BATCH, None, None, None, None), FedBy.CACHE),
    _per_row("context_lengths", lambda step: step.past + 1 if step.is_decode else np.maximum(step.lengths, 1)),
    _of_step(
        "kvcache_start_index",
        DType.INT32,
        (s.STARTS,),
        lambda step: step.past[:0] if step.is_plain_prefill else step.past,
    ),
    _of_step("kv_page_table", DType.INT32, (s.BATCH, None, None), _page_table),
    # Padding counts as new tokens: no valid token sees it, and it is overwritten.
    _per_row("query_lengths", lambda step: np.full(step.batch, step.width)),
    _per_row("past_lengths", lambda step: step.past),
    _of_step("query_start_offsets", DType.INT32, (s.OFFSETS,), lambda step: np.arange(step.batch + 1) * step.width),
    _per_row("attention_sequence_lengths", lambda step: step.past + step.width),
    _of_step(
        "execution_phase_marker",
        DType.INT32,
        (s.PHASE,),
        lambda step: np.zeros(s.GENERATION_PHASE if step.is_decode else s.CONTEXT_PHASE),
    ),
    _of_step(
        "context_sequence_count_carrier",
        DType.INT32,
        (s.CONTEXTS,),
        lambda step: np.zeros(0 if step.is_decode else step.batch),
    ),
    EngineInput(INPUTS_EMBEDS, None, (s.BATCH, s.SEQUENCE, None), FedBy.EDGE_LLM),
    EngineInput(LAST_TOKEN_IDS, DType.INT64, (s.BATCH, None), FedBy.EDGE_LLM),
    EngineInput(ROPE_TABLE, DType.FLOAT32, (None, None, None), FedBy.EDGE_LLM),
    # Of vision towers.
    _of_tower(TILE_PIXELS, None, s.UNITS, None, None, None),
    _of_tower(HIGH_RES_PIXELS, None, s.UNITS, None, None, None),
    _of_tower(CANVAS_PIXELS, None, s.UNITS, None, None, None, None),
    _of_tower(ASPECT_RATIO_IDS, DType.INT64, s.UNITS),
    _of_tower(ASPECT_RATIO_MASK, DType.INT64, s.UNITS, None),
    _of_tower(TILE_EDGES, DType.INT64, s.UNITS, None),
    _of_tower(INSTRUCTION_IDS, DType.INT64, s.UNITS, s.INSTRUCTION),
    _of_tower(PATCHES, None, s.UNITS, None, None),
    _of_tower(PATCH_POSITIONS, DType.INT64, s.UNITS, None, None),
    _of_tower("segment_ids", DType.INT32, s.UNITS, None),
    _of_tower("window_ids", DType.INT32, s.UNITS, None),
    _of_tower("interpolation_indices", DType.INT64, s.UNITS, None, None),
    _of_tower("interpolation_weights", DType.FLOAT32, s.UNITS, None, None),
    _of_tower(MERGED_PATCHES, DType.INT64, s.UNITS, None, None),
    # Of ragged towers: where segments and windows of patches begin, and the end; and a vector as long as the longest segment.
    _of_tower("cu_seqlens", DType.INT32, s.SEGMENTS),
    _of_tower("cu_window_seqlens", DType.INT32, s.WINDOW_OFFSETS),
    _of_tower("max_seqlen_carrier", DType.INT32, s.LONGEST),
    _of_tower(CU_TILES, DType.INT32, s.TILE_OFFSETS),
    _of_tower(PRUNING_PLAN, DType.INT32, s.UNITS, None, None),
    _of_tower(KEPT_ROWS, DType.INT32, s.FEATURE_ROWS),
]


@lru_cache(maxsize=4096)  # every step asks for every input
def engine_input(name: str) -> EngineInput | None:
    """The registry's entry for the input ``name``; ``None`` if there is none."""
    return next((entry for entry in REGISTRY if entry.matches(name)), None)


def known_symbols() -> dict[str, Symbol]:
    """Every symbolic dimension that an input or output may have, by name."""
    return {
        symbol.name: symbol for entry in REGISTRY for symbol in (*entry.shape, *entry.produced) if symbol is not None
    }


def is_shape_tensor(name: str) -> bool:
    """Whether TensorRT needs the input's value to compute shapes, and therefore reads it from host memory."""
    entry = engine_input(name)
    return entry is not None and entry.values is not None


def fed_by(name: str) -> FedBy | None:
    """Who provides the input's content; ``None`` for an input that the registry does not have."""
    entry = engine_input(name)
    return None if entry is None else entry.fed_by


def feeds(step: Step) -> Feeds:
    """An array for every input of the contract that is fed by the step."""
    return {name: np.ascontiguousarray(feed(step), dtype) for name, feed, dtype in step.contract.step_inputs}


@contextmanager
def registered(entry: EngineInput) -> Iterator[EngineInput]:
    """Register an additional input within the block, for experiments."""
    REGISTRY.append(entry)
    engine_input.cache_clear()
    try:
        yield entry
    finally:
        REGISTRY.remove(entry)
        engine_input.cache_clear()
