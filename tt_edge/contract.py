"""The engine I/O contract: what a compiled decoder takes and gives, and in which shapes.

Written by the compiler, stored in the bundle's manifest, obeyed by every session. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tt_edge.dtypes import DType
from tt_edge.errors import BundleError

#: Names of the symbolic dimensions of engine I/O.
BATCH, SEQUENCE = "batch", "sequence"

#: Symbolic dimensions of the attention plugin's inputs, whose sizes say how a step is computed: empty or one a row
#: (``kvcache_start_index``), one more than rows (``query_start_offsets``), 1 in context and 3 in generation
#: (``execution_phase_marker``), and one a row or empty (``context_sequence_count_carrier``).
STARTS, OFFSETS, PHASE, CONTEXTS = "starts", "batch+1", "phase", "contexts"

#: Of vision networks: ``tt_edge.vision_contract``.
_VISION = ("image_tokens", "windows", "tiles", "rows", "segments+1", "windows+1", "longest", "tiles+1")
_SYMBOLS = (BATCH, SEQUENCE, STARTS, OFFSETS, PHASE, CONTEXTS, *_VISION)

Shape = tuple[int, ...]
Dim = int | str


@dataclass(frozen=True)
class TensorSpec:
    """One engine input or output. ``shape`` mixes sizes with symbolic dims, of which most have ``batch`` and ``sequence``."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]

    def resolve(self, **sizes: int) -> Shape:
        """The concrete shape for given sizes of the symbolic dims, e.g. ``resolve(batch=1, sequence=7)``."""
        return tuple(d if isinstance(d, int) else sizes[d] for d in self.shape)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TensorSpec:
        shape = tuple(d if d in _SYMBOLS else _size(d, "dimension") for d in data["shape"])
        return cls(str(data["name"]), DType(data["dtype"]), shape)


def _size(value: Any, name: str) -> int:
    """``value`` if it is a size; raises ``ValueError`` naming it for any other, booleans and floats included."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}")
    return value


@dataclass(frozen=True)
class KVPair:
    """One cache tensor: the engine input ``past`` and the output ``present`` that takes its place in the next step.

    Where the contract says ``kv_in_place``, both must be bound to one device address (``IKVCacheUpdateLayer``);
    where it does not, to different ones.
    """

    past: str
    present: str


@dataclass(frozen=True)
class ShapeRange:
    """Minimum, optimum and maximum shape of one input in an optimization profile; of a shape tensor, its values."""

    min: Shape
    opt: Shape
    max: Shape


#: Optimization profile indices of every LLM engine.
CONTEXT_PROFILE, GENERATION_PROFILE = 0, 1

#: Most tokens a row that the generation profile takes. One would do for decoding, but a static 1 makes the builder keep
#: a second, differently packed copy of part of the weights: 1,407 against 969 MB for Qwen2.5-0.5B in fp16 (TensorRT-RTX
#: 1.6.1, SM89, ahead of time).
GENERATION_TOKENS = 4


#: Inputs, int64 ``[1]`` in host memory, whose values TensorRT needs to know shapes: where this step's tokens stand in the
#: cache, from ``start_idx`` up to ``end_idx``, for all rows alike.
START, END = "start_idx", "end_idx"
SHAPE_TENSORS = (START, END)


#: Inputs of a vision-language model. ``image_features`` ``[rows, hidden]`` is a table that stays on the device;
#: ``image_indices`` int32 ``[B, S]`` says which of its rows stands in for a token's embedding, and -1 that none does.
IMAGE_FEATURES, IMAGE_INDICES = "image_features", "image_indices"


def deepstack_name(level: int) -> str:
    """The table, like ``image_features``, of what the decoder layer ``level`` adds at the places of images (Qwen3-VL)."""
    return f"deepstack_features_{level}"


@dataclass(frozen=True)
class EngineContract:
    """Inputs, outputs, aliasing and limits of a compiled decoder.

    ``inputs`` and ``outputs`` are in binding order. The KV cache tensors are ``[batch, kv_heads, max_seq_len,
    head_dim]``; ``kv_cache`` lists them K, V, layer by layer. (The attention plugin has layouts of its own, and one
    tensor a layer.) Limits: ``max_batch`` rows, ``max_input_len`` new
    tokens a row in one call, ``max_seq_len`` tokens a row in all (the cache capacity). Without ``kv_cache``, a call
    takes a row's whole sequence.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    kv_cache: tuple[KVPair, ...]
    max_batch: int
    max_input_len: int
    max_seq_len: int
    vocab_size: int
    single_profile: bool = False
    kv_in_place: bool = True

    def input(self, name: str) -> TensorSpec:
        return _named(self.inputs, name)

    def output(self, name: str) -> TensorSpec:
        return _named(self.outputs, name)

    @property
    def cache_names(self) -> frozenset[str]:
        """Names of the inputs that hold the KV cache."""
        return frozenset(pair.past for pair in self.kv_cache)

    @property
    def feature_tables(self) -> tuple[TensorSpec, ...]:
        """Inputs that hold features of images: written when a prompt brings some, not fed with every step."""
        return tuple(t for t in self.inputs if t.name == IMAGE_FEATURES or t.name.startswith("deepstack_features_"))

    @property
    def takes_images(self) -> bool:
        return bool(self.feature_tables)

    @property
    def max_image_tokens(self) -> int:
        """Rows of the feature tables that each row of the batch has; 0 for a language model."""
        return next((int(t.shape[0]) // self.max_batch for t in self.feature_tables), 0)

    @property
    def position_axes(self) -> int:
        """How many numbers a token's position is: 3 with M-RoPE (temporal, height, width), or else 1."""
        positions = next((t for t in self.inputs if t.name == "position_ids"), None)
        return int(positions.shape[0]) if positions is not None and len(positions.shape) == 3 else 1

    @property
    def in_lockstep(self) -> bool:
        """Whether the rows of one call must have equally many tokens in the cache."""
        return any(spec.name in SHAPE_TENSORS for spec in self.inputs)

    @property
    def largest(self) -> dict[str, int]:
        """The largest size of every symbolic dimension."""
        batch = self.max_batch
        return {
            BATCH: batch,
            SEQUENCE: self.max_input_len,
            STARTS: batch,
            OFFSETS: batch + 1,
            PHASE: 3,
            CONTEXTS: batch,
        }

    def kv_bytes(self, batch: int) -> int:
        """Bytes of KV cache for ``batch`` rows at full capacity; a pool of pages is always that of the largest batch."""
        total = 0
        for pair in self.kv_cache:
            spec, count = self.input(pair.past), 1
            for size in spec.resolve(batch=batch):
                count *= size
            total += spec.dtype.nbytes(count)
        return total

    def profiles(self) -> tuple[dict[str, ShapeRange], ...]:
        """The optimization profiles, as input name to shape range: context, then generation unless one serves both.

        One does where ``single_profile`` says so, and without a cache, where every step is as wide as the sequence.
        """
        context = {
            BATCH: (1, 1, self.max_batch),
            SEQUENCE: (1, max(1, min(128, self.max_input_len)), self.max_input_len),
            STARTS: (0, 0, self.max_batch),
            OFFSETS: (2, 2, self.max_batch + 1),
            PHASE: (1, 1, 3),
            CONTEXTS: (0, 1, self.max_batch),
        }
        # Short prompts take this profile too, so it has both phases.
        generation = {
            **context,
            SEQUENCE: (1, 1, min(GENERATION_TOKENS, self.max_input_len)),
            STARTS: (0, 1, self.max_batch),
            PHASE: (1, 3, 3),
            CONTEXTS: (0, 0, self.max_batch),
        }

        capacity = self.max_seq_len

        def ranges(sizes: dict[str, tuple[int, int, int]], start: int) -> dict[str, ShapeRange]:
            end = start + sizes[SEQUENCE][1]  # TensorRT checks that the optimum shapes agree
            values = {
                START: ShapeRange((0,), (start,), (capacity - 1,)),
                END: ShapeRange((1,), (end,), (capacity,)),
            }
            return {
                spec.name: values.get(spec.name)
                or ShapeRange(*(spec.resolve(**{k: v[i] for k, v in sizes.items()}) for i in range(3)))
                for spec in self.inputs
            }

        one = self.single_profile or not self.kv_cache
        return (ranges(context, 0),) if one else (ranges(context, 0), ranges(generation, capacity // 2))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EngineContract:
        """Rebuild from ``to_dict``'s form. Raises ``BundleError`` when a field is missing or of a wrong type."""
        try:
            return cls(
                inputs=tuple(TensorSpec.from_dict(t) for t in data["inputs"]),
                outputs=tuple(TensorSpec.from_dict(t) for t in data["outputs"]),
                kv_cache=tuple(KVPair(str(p["past"]), str(p["present"])) for p in data["kv_cache"]),
                max_batch=_size(data["max_batch"], "max_batch"),
                max_input_len=_size(data["max_input_len"], "max_input_len"),
                max_seq_len=_size(data["max_seq_len"], "max_seq_len"),
                vocab_size=_size(data["vocab_size"], "vocab_size"),
                single_profile=bool(data["single_profile"]),
                kv_in_place=bool(data["kv_in_place"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"engine contract is malformed ({error!r}); compile the model again") from error


def _named(specs: tuple[TensorSpec, ...], name: str) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    raise BundleError(f"engine contract has no tensor {name!r}; compile the model again")
