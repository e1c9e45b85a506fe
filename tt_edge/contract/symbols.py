"""Symbolic dimensions of engine inputs and outputs, and how large each may be. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tt_edge.compat import StrEnum
from tt_edge.config.limits import Limits
from tt_edge.contract import tensor
from tt_edge.contract.geometry import TILES, VisionGeometry, kept_tokens
from tt_edge.contract.subsampling import Subsampling

#: Minimum, optimum and maximum size.
Sizes = tuple[int, int, int]

#: Maximum tokens per slot in the generation profile. Decoding needs only one, but a static 1 makes the builder keep
#: a second, differently packed copy of part of the weights: 1,407 against 969 MB for Qwen2.5-0.5B in fp16 (TensorRT-RTX
#: 1.6.1, SM89, ahead of time).
GENERATION_TOKENS = 4

#: Lengths of ``execution_phase_marker`` (AttentionPlugin 0.11), whose contents do not count.
CONTEXT_PHASE, GENERATION_PHASE = 1, 3


class Phase(StrEnum):
    """What an optimization profile is for."""

    #: Prompts; and every call of a part that has one profile only.
    CONTEXT = "context"
    #: A few tokens per slot.
    GENERATION = "generation"


class Scope(NamedTuple):
    """The values that determine the sizes of a symbolic dimension."""

    limits: Limits
    phase: Phase
    geometry: VisionGeometry | None = None
    subsampling: Subsampling | None = None

    @property
    def generates(self) -> bool:
        return self.phase is Phase.GENERATION

    @property
    def units(self) -> Sizes:
        """For a vision tower: minimum, typical and maximum number of units in a call."""
        assert self.geometry is not None
        return self.geometry.units(self.limits.min_image_tokens or 1, self.limits.max_image_tokens or 1)


@dataclass(frozen=True)
class Symbol:
    """A symbolic dimension, and its minimum, optimum and maximum size in an optimization profile.

    ``of_tower``: the sizes are determined by a vision tower's geometry.
    """

    name: str
    sizes: Callable[[Scope], Sizes]
    of_tower: bool = False


def _sequence(scope: Scope) -> Sizes:
    most = scope.limits.max_input_len
    if scope.generates:
        return 1, 1, min(GENERATION_TOKENS, most)
    return 1, max(1, min(128, most)), most


def _source(scope: Scope) -> Sizes:
    most = scope.limits.max_source_len or 1
    return 1, min(128, most), most


def _frames(scope: Scope) -> Sizes:
    assert scope.subsampling is not None
    _, usual, most = (scope.subsampling.fewest(max(2, places)) for places in _source(scope))
    return scope.subsampling.least, usual, most


def _tower_patches(scope: Scope) -> tuple[int, Sizes]:
    """Patches a token of a ragged tower that takes patches, and its units, which are tokens."""
    assert scope.geometry is not None
    return scope.geometry.merge_size**2, scope.units


def _windows(scope: Scope) -> Sizes:
    assert scope.geometry is not None
    _, usual, most = scope.units
    return 2, -(-usual // max(1, scope.geometry.window_tokens)) + 1, most + 1


def _longest(scope: Scope) -> Sizes:
    patches, (_, usual, most) = _tower_patches(scope)
    return patches, usual * patches, most * patches


def _feature_rows(scope: Scope) -> Sizes:
    assert scope.geometry is not None
    least, usual, most = (units * scope.geometry.tokens_a_unit + scope.geometry.end_rows for units in scope.units)
    if scope.geometry.prunes:
        most = min(most, scope.limits.max_image_tokens or most)
        return 1, min(most, kept_tokens(scope.geometry.keep, usual)), most
    return least, usual, most


def _instruction(scope: Scope) -> Sizes:
    assert scope.geometry is not None
    most = max(1, scope.geometry.max_instruction)
    return 1, min(32, most), most


BATCH = Symbol(tensor.BATCH, lambda s: (1, 1, s.limits.max_batch))
SEQUENCE = Symbol(tensor.SEQUENCE, _sequence)
#: Tokens of a source in one call of an encoder.
SOURCE = Symbol("source", _source)
#: Token ids of the text that an encoder reads with an image, by another tokenizer: as many as of its source, at most.
QUESTION = Symbol("question", _source)
#: Frames of features, or samples, of speech of any length in one call of an encoder.
FRAMES = Symbol("frames", _frames)

# The attention plugin's dimensions whose sizes say how a step is computed. Short prompts take the generation profile too,
# so it has both phases.
#: Empty if no slot has a past, otherwise one element per slot.
STARTS = Symbol("starts", lambda s: (0, int(s.generates), s.limits.max_batch))
#: One more than the number of slots.
OFFSETS = Symbol("batch+1", lambda s: (2, 2, s.limits.max_batch + 1))
PHASE = Symbol("phase", lambda s: (CONTEXT_PHASE, GENERATION_PHASE if s.generates else CONTEXT_PHASE, GENERATION_PHASE))
#: One a row in context, none in generation.
CONTEXTS = Symbol("contexts", lambda s: (0, int(not s.generates), s.limits.max_batch))

#: Of a vision tower: what ``VisionGeometry.unit`` names.
UNITS = Symbol("units", lambda s: s.units, of_tower=True)
#: Image tokens of which a tower returns features.
FEATURE_ROWS = Symbol("rows", _feature_rows, of_tower=True)
#: Token ids of a prompt's text that a tower reads with each tile.
INSTRUCTION = Symbol("instruction", _instruction, of_tower=True)
# Of a ragged tower. A segment, or a window at an edge, may have one token only.
SEGMENTS = Symbol("segments+1", lambda s: (2, 2, s.units[2] + 1), of_tower=True)
WINDOW_OFFSETS = Symbol("windows+1", _windows, of_tower=True)
TILE_OFFSETS = Symbol(f"{TILES}+1", lambda s: (s.units[0] + 1, s.units[1] + 1, s.units[2] + 1), of_tower=True)
#: Patches of the longest segment.
LONGEST = Symbol("longest", _longest, of_tower=True)
