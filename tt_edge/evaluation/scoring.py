"""Log-probabilities of given tokens from a session: teacher-forced, in batches, with common prompts computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES, PromptImages, place_images
from tt_edge.runtime.scheduling.prefix_cache import common_prefix
from tt_edge.runtime.seq2seq.source import Source


@dataclass(frozen=True, eq=False)
class Target:
    """Token ids of a prompt and of its continuation, which may be empty, and token ids to choose from behind the prompt."""

    prompt: Sequence[int]
    continuation: Sequence[int] = ()
    choices: Sequence[int] = ()
    images: PromptImages = NO_IMAGES
    #: What an encoder-decoder answers to; the prompt is what its answer begins with.
    source: Source | None = None
    #: For errors.
    what: str = "the prompt"

    @property
    def fed(self) -> list[int]:
        """The tokens that the network is given: all but the last of the continuation."""
        return [*self.prompt, *self.continuation[:-1]]

    def check(self, capacity: int) -> None:
        """Raise ``CapacityError`` if it does not fit a cache of ``capacity`` tokens."""
        if (tokens := len(self.fed)) > capacity:
            raise CapacityError(
                f"{self.what} needs {tokens} tokens, more than max_seq_len {capacity}; "
                f"compile with --max-seq-len {tokens} or more"
            )


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Log-probabilities of the continuation's tokens and of the choices, float64. ``greedy``: each token was the likeliest."""

    logprobs: NDArray[np.float64]
    greedy: bool
    choices: NDArray[np.float64]


class _Slot:
    """A batch slot: the tokens in its cache, and the target that it computes."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.held: list[int] = []
        self.number, self.target = -1, Target(())
        self.fed: list[int] = []
        self._logprobs: list[float] = []
        self._greedy, self._choices = True, np.zeros(0)

    @property
    def busy(self) -> bool:
        return self.number >= 0

    def take(self, number: int, target: Target) -> None:
        """Start ``target``; what the cache already holds of its prompt is kept, except of prompts with images."""
        self.number, self.target, self.fed = number, target, target.fed
        fresh = target.images.tokens or target.source is not None
        shared = 0 if fresh else common_prefix(self.held, self.fed)
        self.held = self.held[: min(shared, len(target.prompt) - 1)]  # the prompt's last token is always fed
        self._logprobs, self._greedy, self._choices = [], True, np.zeros(0)

    def width(self, every_token: bool) -> int:
        """How many tokens it can take in one step: to where the next logits are needed."""
        left = len(self.fed) - len(self.held)
        return left if every_token else min(left, max(len(self.target.prompt) - len(self.held), 1))

    def read(self, logits: np.ndarray, first: int) -> bool:
        """Use the logits ``[n, V]`` of tokens ``first`` … of the sequence. ``True`` when the target is complete."""
        start = len(self.target.prompt) - 1
        for place, row in enumerate(logits, first):
            if place >= start:
                self._read_one(row.astype(np.float64), place - start)
        return len(self.held) == len(self.fed)

    def _read_one(self, row: np.ndarray, place: int) -> None:
        top = row.max()
        total = top + np.log(np.exp(row - top).sum())
        if place < len(self.target.continuation):
            token = self.target.continuation[place]
            self._logprobs.append(float(row[token] - total))
            self._greedy &= int(row.argmax()) == token
        if place == 0:
            self._choices = row[list(self.target.choices)] - total

    def finish(self) -> tuple[int, TokenScores]:
        number, self.number = self.number, -1
        if self.target.images.tokens:
            self.held = []  # its tokens stand for images
        return number, TokenScores(np.array(self._logprobs), self._greedy, self._choices)


def score(session: Session, targets: Iterable[Target]) -> Iterator[tuple[int, TokenScores]]:
    """Score ``targets``; yields the number and the result of each when it is done.

    Long prompts are fed in pieces. Without ``session.has_full_logits``, continuations are fed token by token, which gives the
    same numbers and takes more steps. A target begins where its prompt leaves what its slot holds, so that prompts with a
    common beginning should follow one another. The session is used by nobody else meanwhile, and its slots are changed.
    Raises ``CapacityError`` for a target that does not fit, and ``InvalidInputError`` for one of an encoder-decoder without a
    source.
    """
    numbered = enumerate(targets)
    first = list(islice(numbered, session.contract.max_batch))
    if not first:
        return
    queue = chain(first, numbered)
    session.reset(len(first))
    slots = [_Slot(index) for index in range(len(first))]
    while True:
        while (free := [slot for slot in slots if not slot.busy]) and (pair := next(queue, None)) is not None:
            number, target = pair
            target.check(session.contract.max_seq_len)
            if session.contract.takes_source and target.source is None:
                raise InvalidInputError(
                    "the bundle is of an encoder-decoder, and texts are scored only by language models; give one"
                )
            slot = _best(free, target)
            slot.take(number, target)
            if target.source is not None:
                session.write_cross(slot.index, target.source.cross, target.source.length)
        for slot in slots:
            if slot.busy and not slot.held and slot.target.images.tokens:
                slot.target.images.write_to(session, slot.index)
        busy = [slot for slot in slots if slot.busy]
        if not busy:
            return
        for slot in _step(session, slots, busy):
            yield slot.finish()


def _best(free: Sequence[_Slot], target: Target) -> _Slot:
    """The slot whose cache begins with most of the prompt."""
    return max(free, key=lambda slot: common_prefix(slot.held, target.prompt))


def _step(session: Session, slots: Sequence[_Slot], busy: Sequence[_Slot]) -> list[_Slot]:
    """Feed one piece of each busy slot; returns those that are complete."""
    contract, every = session.contract, session.has_full_logits
    # Every slot of a call needs free places for the widest piece; idle slots give up what they hold if they must.
    most = min(contract.max_input_len, *(contract.max_seq_len - len(slot.held) for slot in busy))
    width = min(most, max(slot.width(every) for slot in busy))
    for slot in slots:
        if not slot.busy:
            slot.held = slot.held[: contract.max_seq_len - width]
    session.truncate([len(slot.held) for slot in slots])
    low = min(slot.index for slot in busy) if session.starts_anywhere else 0
    high = max(slot.index for slot in busy) + 1
    step, lengths = np.zeros((high - low, width), np.int64), np.zeros(high - low, np.int64)
    given = []
    for slot in busy:
        at = len(slot.held)
        size = slot.target.images.whole(at, min(slot.width(every), width))
        if size > width:
            raise CapacityError(
                f"{size} tokens that see each other do not fit the {width} of one call; compile with a larger --max-input-len"
            )
        step[slot.index - low, :size] = slot.fed[at : at + size]
        lengths[slot.index - low] = size
        given.append((slot.index, at, size, slot.target.images))
    more = place_images(contract, step.shape, given, low) if contract.takes_images else ()
    logits = session.forward(step, lengths, *more, first=low, every_token=every)
    done = []
    for slot, (_, at, size, _) in zip(busy, given, strict=True):
        slot.held = slot.fed[: at + size]
        own = logits[slot.index - low]
        if slot.read(own[:size], at) if every else slot.read(own[None], at + size - 1):
            done.append(slot)
    return done
