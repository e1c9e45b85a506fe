"""Continuous batching: requests take the rows of a session as they fall free, and keep what a row knows already."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import EngineError, TTEdgeError
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES, PromptImages, place_images
from tt_edge.runtime.scheduling.prefix_cache import PrefixCache, common_prefix
from tt_edge.runtime.scheduling.request import FinishReason, Request, check_prompt
from tt_edge.runtime.scheduling.sampling import Sampler, Scores

#: Fewer tokens than this are computed again rather than copied from another row or from the host.
WORTH_COPYING = 16


@dataclass
class Stats:
    """Counts since the scheduler was made."""

    steps: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0


@dataclass(eq=False)
class _Row:
    """A row of the session: the tokens in its cache, which stay when its request ends, and those to feed next.

    ``ids`` are keys: for a token of an image, a number that stands for the image and the place in it.
    """

    index: int
    ids: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    request: Request | None = None
    sampler: Sampler | None = None

    @property
    def images(self) -> PromptImages:
        return NO_IMAGES if self.request is None else self.request.images


class Scheduler:
    """Runs requests on the rows of ``session``, of which it is then the only user. Not thread-safe.

    A step feeds every busy row at once: a piece of its prompt, or its last token. (The rows of a step are as wide as the
    widest, so a row that decodes beside one that prefills costs nothing more.) A new request takes the row whose cache
    begins with most of its prompt, token by token, and computes the rest alone; a longer beginning is copied from
    another row, or from ``prefixes``.
    """

    def __init__(self, session: Session, rows: int | None = None, prefixes: PrefixCache | None = None) -> None:
        self.session = session
        self.prefixes = prefixes or PrefixCache()
        self.stats = Stats()
        self.waiting: deque[Request] = deque()
        self._rows: list[_Row] = []
        self._reset(rows or session.contract.max_batch)

    @property
    def running(self) -> int:
        """Requests that have a row."""
        return len(self._busy())

    def check(self, request: Request, what: str = "the prompt") -> None:
        """Raise ``InvalidInputError`` or ``CapacityError`` if ``request``, called ``what``, can never run."""
        check_prompt(what, request.prompt_ids, request.config, self.session.contract, request.images)

    def submit(self, request: Request) -> None:
        """Queue ``request``; raises what ``check`` raises."""
        self.check(request)
        self.waiting.append(request)

    def run(self, requests: Sequence[Request]) -> None:
        """Step until ``requests`` are done; raises the first one's error. They are cancelled when this is interrupted."""
        try:
            while not all(request.is_done for request in requests):
                self.step()
        finally:
            for request in requests:
                request.cancel()
        for request in requests:
            if request.error is not None:
                raise request.error

    def forget(self) -> None:
        """Take all rows as empty: somebody else has used the session. Not for while something is being generated."""
        self._reset(len(self._rows))

    def step(self) -> bool:
        """Admit what fits, feed all busy rows once, and choose a token in those whose prompt is through.

        Returns whether requests remain. When the session raises, the requests are as they were.
        """
        self._drop_cancelled()
        self._admit()
        if busy := self._busy():
            logits = self._feed(busy)
            for row in busy:
                if not row.pending:
                    self._choose(row, logits[row.index])
        return bool(self.waiting or self._busy())

    def abort(self, error: TTEdgeError) -> None:
        """End all requests with ``error`` and forget what the rows hold: after a failed step."""
        requests = [*(row.request for row in self._busy() if row.request), *self.waiting]
        self.waiting.clear()
        self._reset(len(self._rows))
        for request in requests:
            request.finish(None, error)

    def precompute(self, token_ids: Sequence[int]) -> None:
        """Make sure that ``prefixes`` hold ``token_ids``, computing what no row has. For when nothing is running."""
        if self.prefixes.find(token_ids)[1] == len(token_ids):
            return
        row = max(self._rows, key=lambda row: common_prefix(row.ids, token_ids))
        self._prepare(row, token_ids)
        row.pending = list(token_ids[len(row.ids) :])
        while row.pending:
            self._feed([row])
        self.prefixes.add(self.session.read_kv(row.index, token_ids))

    def _busy(self) -> list[_Row]:
        return [row for row in self._rows if row.request is not None]

    def _reset(self, rows: int) -> None:
        self.session.reset(rows)
        self._rows = [_Row(index) for index in range(rows)]

    def _drop_cancelled(self) -> None:
        for row in self._busy():
            assert row.request is not None
            if row.request.cancelled:
                self._end(row, FinishReason.CANCELLED)
        if any(request.cancelled for request in self.waiting):
            waiting, self.waiting = self.waiting, deque(r for r in self.waiting if not r.cancelled)
            for request in waiting:
                if request.cancelled:
                    request.finish(FinishReason.CANCELLED)

    def _admit(self) -> None:
        if not self.session.takes_fewer_rows and self.waiting and not self._busy():
            # Such a session runs all its rows in every step, and together only while they are equally long.
            rows = min(len(self.waiting), self.session.contract.max_batch)
            if rows != len(self._rows) or rows > 1:
                self._reset(rows)
        free = [row for row in self._rows if row.request is None]
        while self.waiting and free:
            request = self.waiting.popleft()
            keys = request.prompt_keys
            row = max(free, key=lambda r: (common_prefix(r.ids, keys), -len(r.ids), -r.index))
            free.remove(row)
            request.admitted_at = time.perf_counter()
            # The last token is always fed: its logits are the first to be chosen from.
            self._prepare(row, keys[:-1])
            row.pending = list(request.prompt_ids[len(row.ids) :])
            row.sampler = Sampler(request.config, request.prompt_ids, self.session.contract.vocab_size)
            row.request, request.reused = request, len(row.ids)
            self._write_features(row)
            self.stats.prompt_tokens += len(request.prompt_ids)
            self.stats.reused_tokens += len(row.ids)

    def _write_features(self, row: _Row) -> None:
        """Put the features of the row's images where the network finds them, if any of their tokens will be computed."""
        contract, images = self.session.contract, row.images
        start = len(row.ids) if contract.kv_cache else 0
        if (images.indices[start:] >= 0).any():
            self.session.write_features(row.index, images.features)

    def _prepare(self, row: _Row, ids: Sequence[int]) -> None:
        """Leave in ``row`` as long a beginning of ``ids`` as is to be had."""
        own = common_prefix(row.ids, ids)
        if not self.session.contract.kv_cache:  # there is nothing to copy
            row.ids = row.ids[:own]
            return self._rewind()
        stored, length = self.prefixes.find(ids)
        donor = max(self._rows, key=lambda r: common_prefix(r.ids, ids))
        from_donor = common_prefix(donor.ids, ids)
        if max(length, from_donor) >= own + WORTH_COPYING:
            found = stored.first(length) if stored and length >= from_donor else None
            prefix = found or self.session.read_kv(donor.index, ids[:from_donor])
            self.session.write_kv(row.index, prefix)
            row.ids = list(prefix.token_ids)
        else:
            row.ids = row.ids[:own]
        return self._rewind()

    def _feed(self, busy: Sequence[_Row]) -> Scores:
        """One step of the session; returns its logits ``[B, V]``. Padding goes behind what each row has."""
        contract = self.session.contract
        room = contract.max_seq_len - max(len(row.ids) for row in busy)
        width = min(contract.max_input_len, room, max(len(row.pending) for row in busy))
        rows = self._rows[: busy[-1].index + 1] if self.session.takes_fewer_rows else self._rows
        for row in rows:
            if row.request is None and row not in busy:
                row.ids = row.ids[: contract.max_seq_len - width]
        self._rewind()
        ids = np.zeros((len(rows), width), np.int64)
        lengths = np.zeros(len(rows), np.int32)
        for row in busy:
            piece = row.pending[:width]
            ids[row.index, : len(piece)] = piece
            lengths[row.index] = len(piece)
        more = self._about_images(busy, ids, lengths) if contract.takes_images else ()
        logits = self.session.forward(ids, lengths, *more)
        self.stats.steps += 1
        for row in busy:
            row.ids += row.images.keys_at(len(row.ids), row.pending[:width])
            row.pending = row.pending[width:]
        return logits

    def _about_images(
        self, busy: Sequence[_Row], ids: NDArray[np.int64], lengths: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Positions ``[axes, B, S]`` and rows of the feature tables ``[B, S]`` of what is about to be fed."""
        rows = [(row.index, len(row.ids), int(lengths[row.index]), row.images) for row in busy]
        return place_images(self.session.contract, ids.shape, rows)

    def _rewind(self) -> None:
        """Let the session forget what the rows no longer have."""
        lengths = [len(row.ids) for row in self._rows]
        if lengths != self.session.past_lengths.tolist():
            self.session.truncate(lengths)

    def _choose(self, row: _Row, logits: Scores) -> None:
        request, sampler = row.request, row.sampler
        assert request is not None
        assert sampler is not None
        try:
            token = sampler.choose(logits)
        except EngineError as error:
            return self._end(row, None, error)
        request.last_at = time.perf_counter()
        request.first_at = request.first_at or request.last_at
        request.tokens.append(token)
        row.pending = [token.id]
        self.stats.new_tokens += 1
        config, reason = request.config, None
        if token.id in config.eos_token_ids and not config.ignore_eos:
            reason = FinishReason.EOS
        elif token.id in config.stop_token_ids:
            reason = FinishReason.STOP
        elif len(request.tokens) >= config.max_new_tokens:
            reason = FinishReason.LENGTH
        if request.on_token is not None and request.on_token(token):
            reason = FinishReason.STOP
        if reason is not None:
            self._end(row, reason)
        return None

    def _end(self, row: _Row, reason: FinishReason | None, error: TTEdgeError | None = None) -> None:
        request, row.request, row.sampler, row.pending = row.request, None, None, []
        assert request is not None
        request.finish(reason, error)
