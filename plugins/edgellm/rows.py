"""The tokens and positions of each batch slot in one call of the plugin. Torch-free.

The operator and the reference evaluator both use this, so the contracts' lengths are interpreted in one place.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tt_edge.contract.symbols import CONTEXT_PHASE, GENERATION_PHASE
from tt_edge.errors import InvalidInputError
from tt_edge.plugins.edgellm.contracts import OWN_CONTRACT, Generation


@dataclass(frozen=True)
class Row:
    """One slot's part of a call.

    Its tokens are at ``first … first + written - 1`` among those of all slots, and are written to positions ``past …`` of
    its cache. The first ``valid`` of them are valid; the others are padding, whose result is meaningless.
    """

    first: int
    written: int
    valid: int
    past: int


def rows_of(generation: Generation, named: Mapping[str, Any]) -> list[Row]:
    """The slots of a call, from its inputs by name: NumPy arrays or torch tensors."""
    width = next(iter(named.values())).shape[1]
    if generation.version == OWN_CONTRACT:
        return own_rows(width, named["query_lengths"].tolist(), named["past_lengths"].tolist())
    if not generation.ragged:
        return padded_rows(width, named["context_lengths"].tolist(), named["kvcache_start_index"].tolist())
    return ragged_rows(
        named["query_lengths"].tolist(),
        named["past_lengths"].tolist(),
        named["query_start_offsets"].tolist(),
        named["attention_sequence_lengths"].tolist(),
        phase=len(named["execution_phase_marker"]),
        contexts=len(named["context_sequence_count_carrier"]),
    )


def padded_rows(width: int, context_lengths: Sequence[int], starts: Sequence[int]) -> list[Row]:
    """Slots in the generations up to 0.10: tokens are ``[B, width]``, right-padded.

    Without ``starts`` this is a plain prefill. With ``starts``, a width above 1 is a chunk after ``starts[b]`` tokens, and a
    width of 1 is a decode step, whose position follows from ``context_lengths``: the number of tokens after the step.
    """
    if len(starts) not in (0, len(context_lengths)):
        raise InvalidInputError(
            f"kvcache_start_index has {len(starts)} elements for {len(context_lengths)} rows; give none or one a row"
        )
    rows = []
    for index, length in enumerate(context_lengths):
        if not starts:
            row = Row(index * width, width, length, 0)
        elif width > 1:
            row = Row(index * width, width, length, starts[index])
        else:
            row = Row(index, 1, 1, length - 1)
        if not 0 <= row.valid <= width or row.past < 0:
            raise InvalidInputError(f"context_lengths[{index}] is {length} in a step of {width} tokens a row")
        rows.append(row)
    return rows


def own_rows(width: int, query_lengths: Sequence[int], past_lengths: Sequence[int]) -> list[Row]:
    """Slots in tt-edge's contract: tokens are ``[B, width]``, right-padded; padding is neither written nor computed."""
    rows = []
    for index, (new, past) in enumerate(zip(query_lengths, past_lengths, strict=True)):
        if not 0 <= new <= width or past < 0:
            raise InvalidInputError(
                f"query_lengths[{index}] is {new} and past_lengths[{index}] is {past} in a step of {width} tokens a slot"
            )
        rows.append(Row(index * width, new, new, past))
    return rows


def ragged_rows(
    query_lengths: Sequence[int],
    past_lengths: Sequence[int],
    offsets: Sequence[int],
    sequence_lengths: Sequence[int],
    phase: int,
    contexts: int,
) -> list[Row]:
    """Slots in 0.11: tokens are ``[T]``, slot after slot. ``phase`` and ``contexts`` are the lengths of their carriers."""
    batch = len(query_lengths)
    totals = [past + new for past, new in zip(past_lengths, query_lengths, strict=True)]
    if [b - a for a, b in itertools.pairwise(offsets)] != list(query_lengths) or list(sequence_lengths) != totals:
        raise InvalidInputError(
            f"query_lengths {list(query_lengths)}, past_lengths {list(past_lengths)}, query_start_offsets {list(offsets)} "
            f"and attention_sequence_lengths {list(sequence_lengths)} do not agree"
        )
    generation = phase == GENERATION_PHASE and contexts == 0 and set(query_lengths) == {1}
    if not generation and not (phase == CONTEXT_PHASE and contexts == batch):
        raise InvalidInputError(
            f"execution_phase_marker of length {phase} and context_sequence_count_carrier of length {contexts} do not fit "
            f"{batch} rows of {list(query_lengths)} tokens"
        )
    return [
        Row(offset, new, new, past) for offset, new, past in zip(offsets[:-1], query_lengths, past_lengths, strict=True)
    ]
