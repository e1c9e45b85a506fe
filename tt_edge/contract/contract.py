"""The I/O contract of a compiled part: its inputs and outputs with their shapes.

The compiler writes it, the bundle's manifest stores it, and every session follows it. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from tt_edge.config.limits import Limits
from tt_edge.contract.geometry import VisionGeometry
from tt_edge.contract.inputs import (
    TILES_UNTIL,
    VISIBLE_UNTIL,
    FedBy,
    engine_input,
    fed_by,
    is_shape_tensor,
    known_symbols,
)
from tt_edge.contract.step import Step
from tt_edge.contract.subsampling import Subsampling
from tt_edge.contract.symbols import FEATURE_ROWS, FRAMES, SOURCE, UNITS, Phase, Scope
from tt_edge.contract.tensor import Shape, ShapeRange, TensorSpec
from tt_edge.errors import BundleError, InvalidInputError

#: Optimization profile indices of an engine that has one for each phase.
CONTEXT_PROFILE, GENERATION_PROFILE = 0, 1

#: The phases of a part with one optimization profile, and with one for each.
ONE_PROFILE: tuple[Phase, ...] = (Phase.CONTEXT,)
TWO_PROFILES: tuple[Phase, ...] = (Phase.CONTEXT, Phase.GENERATION)


#: Outputs of a network that selects the largest logits: their values and token ids ``[batch, count]``, largest first, and the
#: log-sum-exp of the whole vocabulary's ``[batch]``.
TOP_LOGITS, TOP_IDS, LOG_SUM_EXP = TOP_OUTPUTS = ("top_logits", "top_ids", "log_sum_exp")


@dataclass(frozen=True)
class KVPair:
    """One cache tensor: the engine input ``past`` and the output ``present``, which is the next step's ``past``.

    With the contract's ``kv_in_place``, both must be bound to one device address (``IKVCacheUpdateLayer``); otherwise to
    different addresses.
    """

    past: str
    present: str


@dataclass(frozen=True)
class IOContract:
    """Inputs, outputs, aliasing and limits of a compiled part: a decoder, a vision tower.

    ``inputs`` and ``outputs`` are in binding order; ``tt_edge.contract.inputs`` defines the inputs by name.
    ``phases`` has one entry for each optimization profile. ``kv_cache`` lists the cache tensors K, V, layer by layer, usually
    ``[batch, kv_heads, max_seq_len, head_dim]`` (the attention plugin has other layouts, and one tensor per layer); without
    a cache, a call takes a slot's whole sequence. ``geometry`` is only for a vision tower, whose outputs are feature tables
    named after the decoder's inputs. ``subsampling`` is only for an encoder that takes speech of any length, ``refused_ids`` for
    one of texts, which must not have these tokens.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    limits: Limits
    phases: tuple[Phase, ...] = ONE_PROFILE
    kv_cache: tuple[KVPair, ...] = ()
    kv_in_place: bool = True
    geometry: VisionGeometry | None = None
    subsampling: Subsampling | None = None
    refused_ids: tuple[int, ...] = ()

    @property
    def max_batch(self) -> int:
        return self.limits.max_batch

    @property
    def max_input_len(self) -> int:
        return self.limits.max_input_len

    @property
    def max_seq_len(self) -> int:
        return self.limits.max_seq_len

    def input(self, name: str) -> TensorSpec:
        return _named(self.inputs, name)

    def output(self, name: str) -> TensorSpec:
        return _named(self.outputs, name)

    def inputs_fed_by(self, source: FedBy) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec in self.inputs if fed_by(spec.name) is source)

    @cached_property
    def vocab_size(self) -> int:
        """For a decoder: the number of logits per token."""
        size = self.output("logits").shape[-1]
        assert isinstance(size, int)
        return size

    @cached_property
    def step_inputs(self) -> tuple[tuple[str, Callable[[Step], np.ndarray], np.dtype], ...]:
        """The inputs that are fed in every step: name, what computes the content, and its type."""
        entries = ((spec, engine_input(spec.name)) for spec in self.inputs)
        return tuple((s.name, e.feed, s.dtype.numpy) for s, e in entries if e is not None and e.feed is not None)

    @cached_property
    def top_count(self) -> int:
        """For a decoder: how many of the largest logits the network selects, 0 if it does not."""
        size = next((spec.shape[-1] for spec in self.outputs if spec.name == TOP_LOGITS), 0)
        assert isinstance(size, int)
        return size

    @cached_property
    def cache_names(self) -> frozenset[str]:
        """Names of the inputs that hold the KV cache."""
        return frozenset(pair.past for pair in self.kv_cache)

    @cached_property
    def feature_tables(self) -> tuple[TensorSpec, ...]:
        """Inputs that hold image features: written when a prompt has images, not in every step."""
        return self.inputs_fed_by(FedBy.TABLE)

    @property
    def takes_images(self) -> bool:
        return bool(self.feature_tables) or self.sees_tiles

    @cached_property
    def cross(self) -> tuple[TensorSpec, ...]:
        """Inputs that hold keys and values of a slot's source (encoder-decoders) or images, ``[B, H, T, D]``."""
        return self.inputs_fed_by(FedBy.CROSS)

    @cached_property
    def sees_tiles(self) -> bool:
        """Whether a decoder sees images by cross-attention (``tt_edge.contract.seen_tiles``)."""
        return any(spec.name == TILES_UNTIL for spec in self.inputs)

    @property
    def takes_source(self) -> bool:
        """Whether it is the decoder of an encoder-decoder."""
        return bool(self.cross) and not self.sees_tiles

    @property
    def cross_places(self) -> int:
        """How many places of a slot's source or images a decoder attends to, 0 without."""
        return next((int(spec.shape[2]) for spec in self.cross), 0)

    @property
    def max_source_len(self) -> int:
        """For the parts of an encoder-decoder: the places of a source, 0 for other parts."""
        return self.limits.max_source_len or 0

    @property
    def max_image_tokens(self) -> int:
        """For a decoder: feature table rows per slot, 0 for a language model. For a tower: the maximum per call."""
        if self.geometry is not None:
            return self.limits.max_image_tokens or 0
        if self.sees_tiles:
            return self.cross_places
        return next((int(t.shape[0]) // self.max_batch for t in self.feature_tables), 0)

    @property
    def min_image_tokens(self) -> int:
        """For a tower: the minimum number of image tokens in a call; smaller calls are padded."""
        return self.limits.min_image_tokens or 0

    @property
    def tower(self) -> VisionGeometry:
        """The geometry of a vision tower. Raises ``BundleError`` for another part."""
        if self.geometry is None:
            raise BundleError("the part is not a vision tower; use the part 'vision'")
        return self.geometry

    @property
    def min_units(self) -> int:
        """For a tower: the minimum number of units (``geometry.unit``) in a call."""
        return self._scope(Phase.CONTEXT).units[0]

    @property
    def max_units(self) -> int:
        return self._scope(Phase.CONTEXT).units[2]

    @cached_property
    def position_axes(self) -> int:
        """The number of coordinates of a token's position: 3 with M-RoPE (temporal, height, width), otherwise 1."""
        positions = next((t for t in self.inputs if t.name == "position_ids"), None)
        return int(positions.shape[0]) if positions is not None and len(positions.shape) == 3 else 1

    @cached_property
    def has_blocks(self) -> bool:
        """Whether some tokens of a prompt see each other in both directions, and must be computed in one call."""
        return any(spec.name == VISIBLE_UNTIL for spec in self.inputs)

    @cached_property
    def in_lockstep(self) -> bool:
        """Whether all slots of one call must have the same number of tokens in the cache."""
        return any(is_shape_tensor(spec.name) for spec in self.inputs)

    def kv_bytes(self, batch: int) -> int:
        """Bytes of KV cache for ``batch`` slots at full capacity; a pool of pages is always that of the largest batch."""
        total = 0
        for pair in self.kv_cache:
            spec, count = self.input(pair.past), 1
            for size in spec.resolve(batch=batch):
                count *= size
            total += spec.dtype.nbytes(count)
        return total

    @cached_property
    def largest(self) -> dict[str, int]:
        """The largest size, in any profile, of every symbolic dimension that the inputs and outputs have."""
        known = known_symbols()
        names = {name for spec in (*self.inputs, *self.outputs) for name in spec.symbols}
        return {name: max(known[name].sizes(self._scope(phase))[2] for phase in self.phases) for name in sorted(names)}

    def output_sizes(self, shapes: Mapping[str, Shape]) -> dict[str, int]:
        """Sizes of the outputs' symbolic dimensions for input shapes: the inputs', rows of features, places of speech."""
        sizes = {
            symbol: size
            for spec in self.inputs
            for symbol, size in zip(spec.shape, shapes[spec.name], strict=True)
            if isinstance(symbol, str)
        }
        if self.geometry is not None and not self.geometry.prunes:  # a tower that prunes has an input of as many rows
            sizes[FEATURE_ROWS.name] = sizes[UNITS.name] * self.geometry.tokens_a_unit + self.geometry.end_rows
        if self.subsampling is not None:
            sizes[SOURCE.name] = self.subsampling.places(sizes[FRAMES.name])
        return sizes

    def profiles(self) -> tuple[dict[str, ShapeRange], ...]:
        """The optimization profiles, one for each phase, as input name to shape range."""
        return tuple(
            {spec.name: self._range(spec, self._scope(phase)) for spec in self.inputs} for phase in self.phases
        )

    def _scope(self, phase: Phase) -> Scope:
        return Scope(self.limits, phase, self.geometry, self.subsampling)

    def _range(self, spec: TensorSpec, scope: Scope) -> ShapeRange:
        entry = engine_input(spec.name)
        if entry is not None and entry.values is not None:
            return ShapeRange(*((value,) for value in entry.values(scope)))
        known = known_symbols()
        sizes = {name: known[name].sizes(scope) for name in spec.symbols}
        return ShapeRange(*(spec.resolve(**{name: each[i] for name, each in sizes.items()}) for i in range(3)))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> IOContract:
        """Rebuild from ``to_dict``'s form. Raises ``BundleError`` when a field is missing or of a wrong type."""
        symbols = known_symbols()
        try:
            geometry, limits, subsampling = data["geometry"], data["limits"], data["subsampling"]
            contract = cls(
                inputs=tuple(TensorSpec.from_dict(t, symbols) for t in data["inputs"]),
                outputs=tuple(TensorSpec.from_dict(t, symbols) for t in data["outputs"]),
                limits=Limits(**{f.name: limits[f.name] for f in fields(Limits)}),
                phases=tuple(Phase(phase) for phase in data["phases"]),
                kv_cache=tuple(KVPair(str(p["past"]), str(p["present"])) for p in data["kv_cache"]),
                kv_in_place=_flag(data["kv_in_place"], "kv_in_place"),
                geometry=None if geometry is None else VisionGeometry.from_dict(geometry),
                subsampling=None if subsampling is None else Subsampling.from_dict(subsampling),
                refused_ids=_ids(data.get("refused_ids", []), "refused_ids"),
            )
            _check(contract)
        except (KeyError, TypeError, ValueError, InvalidInputError) as error:
            what = str(error) if isinstance(error, InvalidInputError) else repr(error)
            raise BundleError(f"engine contract is malformed ({what}); compile the model again") from error
        return contract


def _check(contract: IOContract) -> None:
    """Raise ``ValueError`` for a contract whose sizes cannot be computed."""
    if contract.phases not in (ONE_PROFILE, TWO_PROFILES):
        raise ValueError(f"phases is {[phase.value for phase in contract.phases]}")
    limits = contract.limits
    if contract.geometry is not None and (limits.min_image_tokens is None or limits.max_image_tokens is None):
        raise ValueError("a vision tower has no limits of image tokens")
    known = known_symbols()
    for spec in (*contract.inputs, *contract.outputs):
        strange = next((name for name in spec.symbols if known[name].of_tower), None)
        if strange is not None and contract.geometry is None:
            raise ValueError(f"{spec.name} has the dimension {strange!r} of a vision tower, and there is no geometry")
        if FRAMES.name in spec.symbols and contract.subsampling is None:
            raise ValueError(f"{spec.name} has the dimension {FRAMES.name!r}, and there is no subsampling")


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}")
    return value


def _ids(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or any(type(each) is not int or each < 0 for each in value):
        raise ValueError(f"{name} is {value!r}")
    return tuple(value)


def _named(specs: tuple[TensorSpec, ...], name: str) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    raise BundleError(f"engine contract has no tensor {name!r}; compile the model again")
