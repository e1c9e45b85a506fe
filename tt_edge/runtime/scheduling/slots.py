"""The batch slots of a session: what each holds in its KV cache, reuse of cached prefixes, and one step of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.engine.top_logits import RowLogits
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES, PromptImages, place_images
from tt_edge.runtime.scheduling.plan import Run
from tt_edge.runtime.scheduling.prefix_cache import PrefixCache, common_prefix
from tt_edge.runtime.scheduling.request import Request
from tt_edge.runtime.scheduling.sampling import Sampler

#: Fewer tokens than this are computed again rather than copied from another slot or from the host.
WORTH_COPYING = 16


@dataclass(eq=False)
class Slot:
    """One row of the session's batch. Its cache outlives the request that filled it, for the next one to reuse.

    ``keys`` tell apart the tokens in its cache: token ids, and for a token of an image a number that stands for the image
    and the place in it. ``salt`` is that of the request they are of. ``pending`` are the token ids to feed next. ``fed_at`` is
    the number of the last step that had tokens of the request, or that it was admitted before.
    """

    index: int
    keys: list[int] = field(default_factory=list)
    salt: str = ""
    pending: list[int] = field(default_factory=list)
    request: Request | None = None
    sampler: Sampler | None = None
    fed_at: int = 0

    @property
    def images(self) -> PromptImages:
        return NO_IMAGES if self.request is None else self.request.images

    @property
    def step(self) -> list[int]:
        """The token ids to feed next, as many as one step may take: one, where the logits of each are asked for."""
        one_by_one = self.request is not None and self.request.scores_prompt
        return self.pending[:1] if one_by_one else self.pending

    def piece(self, width: int) -> list[int]:
        """The token ids that a step of ``width`` tokens takes: none of a block that ends behind it, and does not fit."""
        whole = self.images.whole(len(self.keys), min(len(self.step), width))
        return self.step[:whole] if whole <= width else []

    def least(self, width: int) -> int:
        """The width that a step of about ``width`` must have for this slot: more where its next block is longer."""
        return self.images.whole(len(self.keys), min(len(self.step), width))

    def shared(self, keys: Sequence[int], salt: str) -> int:
        """How many of ``keys`` the cache begins with, for a request with ``salt``."""
        return common_prefix(self.keys, keys) if self.salt == salt else 0


class BatchSlots:
    """All slots of ``session``, of which this is then the only user."""

    def __init__(self, session: Session, count: int, prefixes: PrefixCache) -> None:
        self.session, self.prefixes = session, prefixes
        self.slots: list[Slot] = []
        self.steps = self.computed_tokens = 0
        self.reset(count)

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def busy(self) -> list[Slot]:
        """Slots with a request, by index."""
        return [slot for slot in self.slots if slot.request is not None]

    @property
    def free(self) -> list[Slot]:
        """Slots without a request, by index."""
        return [slot for slot in self.slots if slot.request is None]

    def reset(self, count: int) -> None:
        """Start over with ``count`` empty slots."""
        self.slots = [Slot(index) for index in range(count)]
        self.session.reset(count)

    def prepare(self, slot: Slot, keys: Sequence[int], salt: str) -> None:
        """Reuse the longest cached prefix of ``keys``: the slot's own, another slot's, or one of ``prefixes``.

        Slots count only where they have the same ``salt``; ``prefixes`` were precomputed for everybody.
        """
        own = slot.shared(keys, salt)
        if slot.salt != salt:
            slot.keys, slot.salt = [], salt
        if not self.session.contract.kv_cache:  # there is nothing to copy
            slot.keys = slot.keys[:own]
            return self._rewind()
        stored, length = self.prefixes.find(keys)
        donor = max(self.slots, key=lambda other: other.shared(keys, salt))
        from_donor = donor.shared(keys, salt)
        if max(length, from_donor) >= own + WORTH_COPYING:
            found = stored.first(length) if stored and length >= from_donor else None
            prefix = found or self.session.read_kv(donor.index, keys[:from_donor])
            self.session.write_kv(slot.index, prefix)
            slot.keys = list(prefix.token_ids)
        else:
            slot.keys = slot.keys[:own]
        return self._rewind()

    def write_features(self, slot: Slot) -> None:
        """Put the features of the slot's images where the network finds them, if any of their tokens will be computed."""
        contract, images = self.session.contract, slot.images
        start = len(slot.keys) if contract.kv_cache else 0
        if (images.indices[start:] >= 0).any():
            images.write_to(self.session, slot.index)

    def write_source(self, slot: Slot) -> None:
        """Put the keys and values of the slot's source where the network finds them."""
        source = None if slot.request is None else slot.request.source
        if source is not None:
            self.session.write_cross(slot.index, source.cross, source.length)

    def feed(self, run: Run) -> list[RowLogits]:
        """Run the network once on pending tokens of the slots of ``run``; returns the logits of each.

        The rows of the step are all slots from the first of ``run`` to the last. Slots between them that are not of ``run``
        add nothing, and their rows are padding. A slot with more pending tokens than the width keeps the rest. Padding goes
        behind what each slot holds.
        """
        contract = self.session.contract
        first = run.slots[0].index if self.session.starts_anywhere else 0
        fed = self.slots[first : run.slots[-1].index + 1]
        for slot in fed:
            if slot.request is None and slot not in run.slots:
                slot.keys = slot.keys[: contract.max_seq_len - run.width]
        width = min(run.width, contract.max_seq_len - max(len(slot.keys) for slot in fed))
        self._rewind()
        ids = np.zeros((len(fed), width), np.int64)
        lengths = np.zeros(len(fed), np.int32)
        pieces = {slot.index: slot.piece(width) for slot in run.slots}
        for index, piece in pieces.items():
            ids[index - first, : len(piece)] = piece
            lengths[index - first] = len(piece)
        positions = indices = None
        if contract.takes_images:
            placed = [(slot.index, len(slot.keys), len(pieces[slot.index]), slot.images) for slot in run.slots]
            positions, indices = place_images(contract, ids.shape, placed, first)
        logits = self.session.forward_rows(ids, lengths, positions, indices, first=first)
        self.steps += 1
        self.computed_tokens += ids.size
        for slot in run.slots:
            piece = pieces[slot.index]
            slot.keys += slot.images.keys_at(len(slot.keys), piece)
            slot.pending = slot.pending[len(piece) :]
            slot.fed_at = self.steps if piece else slot.fed_at
        return [logits[slot.index - first] for slot in run.slots]

    def _rewind(self) -> None:
        """Make the session forget what the slots no longer hold."""
        lengths = [len(slot.keys) for slot in self.slots]
        if lengths != self.session.past_lengths.tolist():
            self.session.truncate(lengths)
