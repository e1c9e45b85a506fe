"""Continuous batching: requests take the slots of a session as they fall free, and reuse what a slot has cached."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tt_edge.errors import EngineError, InvalidInputError, TTEdgeError
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.engine.top_logits import RowLogits, TopLogits
from tt_edge.runtime.scheduling.admission import check_prompt
from tt_edge.runtime.scheduling.beams import beam_search
from tt_edge.runtime.scheduling.plan import PREFILL_TOKENS, Run, decode_run, prefill_run
from tt_edge.runtime.scheduling.prefix_cache import PrefixCache
from tt_edge.runtime.scheduling.request import FinishReason, Request
from tt_edge.runtime.scheduling.sampling import Sampler, check_finite, with_logprobs
from tt_edge.runtime.scheduling.slots import BatchSlots, Slot
from tt_edge.runtime.scheduling.token import Token

_log = logging.getLogger(__name__)
_CLOSED = "the model is closed; load it again"
_BUSY = "{} while requests are running; wait until they are done"


@dataclass
class Stats:
    """Counts since the scheduler was made.

    ``steps`` are runs of the network; ``computed_tokens`` are all tokens of these, padding included.
    """

    steps: int = 0
    computed_tokens: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0


class Scheduler:
    """Runs requests on the slots of ``session``, of which it is then the only user.

    ``step`` runs the network at most twice: on a piece of a prompt, and on the last token of all slots that decode. (Rows of
    one run are as wide as the widest, so a prompt beside decoding slots would be mostly padding.) Prompts take turns, so a
    short one does not wait for the end of a long one. While other slots decode, pieces have at most ``prefill_tokens`` tokens,
    and every second step has none, so that these slots do not wait long for their next tokens. A new request takes the free
    slot whose cache begins with most of its prompt, token by token, and computes only the rest; a longer prefix is copied
    from another slot, or from ``prefixes``.

    Thread-safe: requests may be submitted from any thread at any time, and several threads may step; they take turns,
    and each step advances the requests of all.
    """

    def __init__(
        self,
        session: Session,
        slots: int | None = None,
        prefixes: PrefixCache | None = None,
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        self.session = session
        self.prefill_tokens = prefill_tokens
        self.prefixes = prefixes or PrefixCache()
        self.stats = Stats()
        self._inbox: deque[Request] = deque()  # filled by any thread, emptied by a step
        self._waiting: deque[Request] = deque()
        self._turn = threading.RLock()
        self._closed = False
        self._had_piece = False  # in the step before
        self._slots = BatchSlots(session, slots or session.contract.max_batch, self.prefixes)

    @property
    def running(self) -> int:
        """Requests that have a slot."""
        return len(self._slots.busy)

    @property
    def waiting(self) -> int:
        """Requests that have none yet."""
        return len(self._inbox) + len(self._waiting)

    def check(self, request: Request, what: str = "the prompt") -> None:
        """Raise ``InvalidInputError`` or ``CapacityError`` if ``request``, called ``what``, can never run."""
        if request.config.num_beams > 1:
            raise InvalidInputError(
                f"{what} asks for {request.config.num_beams} beams, and beam search runs without other requests; use "
                "`tt-edge run` or LLM.generate, or omit num_beams"
            )
        check_prompt(what, request.prompt_ids, request.config, self.session.contract, request.images, request.source)

    def search(self, request: Request) -> None:
        """Run ``request`` by beam search, without any other request; ``on_token`` gets all tokens at the end.

        Raises what ``beam_search`` raises, and ``InvalidInputError`` while other requests run or for a prompt with images.
        """
        with self._turn:
            if self._slots.busy or self.waiting:
                raise InvalidInputError(
                    "beam search needs all slots, and other requests run; wait for them, or omit num_beams"
                )
            if request.images.tokens:
                raise InvalidInputError("beam search takes no images; omit num_beams")
            try:
                request.admitted_at = time.perf_counter()
                tokens = beam_search(self.session, request.prompt_ids, request.config, request.source)
            finally:
                self._slots.reset(len(self._slots))
            request.first_at = request.last_at = time.perf_counter()
            reason = FinishReason.LENGTH
            for number in tokens:
                token = Token(number)
                request.tokens.append(token)
                reason = request.reason_to_end(token) or FinishReason.LENGTH
                if request.on_token is not None:
                    request.on_token(token)
            request.finish(reason)

    def submit(self, *requests: Request) -> None:
        """Queue ``requests``, all or none; raises what ``check`` raises. Never waits for a step."""
        for request in requests:
            self.check(request)
        if self._closed:
            raise EngineError(_CLOSED)
        self._inbox.extend(requests)

    def run(self, requests: Sequence[Request]) -> None:
        """Step until ``requests``, which were submitted, are done; raises the first one's error."""
        for _ in self.steps_for(requests):
            pass
        for request in requests:
            if request.error is not None:
                raise request.error

    def steps_for(self, requests: Sequence[Request]) -> Iterator[None]:
        """Step until ``requests`` are done, yielding after each step. Leaving the iterator cancels them."""
        try:
            yield from self.steps(lambda: all(request.is_done for request in requests))
        finally:
            for request in requests:
                request.cancel()

    def steps(self, until: Callable[[], bool]) -> Iterator[None]:
        """The driver loop: step, and yield, until ``until()``. A step that fails ends all requests with its error."""
        while not until():
            with self._turn:
                try:
                    self.step()
                except TTEdgeError as error:
                    self.abort(error)
                except Exception as error:  # a defect: nobody must wait for ever
                    _log.exception("a step of the scheduler failed")
                    self.abort(_internal(error))
            yield

    def step(self) -> None:
        """Admit what fits, compute a piece of a prompt, and decode once; choose a token in slots whose prompt is complete.

        When the session raises, the requests are as they were before the run that failed.
        """
        with self._turn:
            if self._closed:
                return self.abort(EngineError(_CLOSED))
            while self._inbox:
                self._waiting.append(self._inbox.popleft())
            self._drop_cancelled()
            self._admit()
            piece = None
            if not self._had_piece or decode_run(self._slots.busy) is None:
                piece = prefill_run(self._slots.busy, self.session.contract.max_input_len, self.prefill_tokens)
            self._had_piece = piece is not None
            self._run(piece)
            self._run(decode_run(self._slots.busy))
            return None

    def _run(self, run: Run | None) -> None:
        """Run the network, and use the logits of each slot."""
        if run is None:
            return
        for slot, logits in zip(run.slots, self._feed(run), strict=True):
            if slot.pending:
                self._score(slot, logits)
            else:
                self._choose(slot, logits)

    def _feed(self, run: Run) -> list[RowLogits]:
        logits = self._slots.feed(run)
        self.stats.steps, self.stats.computed_tokens = self._slots.steps, self._slots.computed_tokens
        return logits

    def forget(self) -> None:
        """Take all slots as empty: somebody else has used the session. Raises ``EngineError`` while something is generated."""
        with self._turn:
            if self._slots.busy:
                raise EngineError(_BUSY.format("the KV cache cannot be forgotten"))
            self._slots.reset(len(self._slots))

    def abort(self, error: TTEdgeError) -> None:
        """End all requests with ``error`` and forget what the slots hold."""
        with self._turn:
            requests = [*(slot.request for slot in self._slots.busy if slot.request), *self._waiting]
            self._waiting.clear()
            while self._inbox:
                requests.append(self._inbox.popleft())
            try:
                self._slots.reset(len(self._slots))
            finally:
                for request in requests:
                    request.finish(None, error)

    def close(self) -> None:
        """End all requests; those to come are refused. Closing twice is harmless."""
        with self._turn:
            if not self._closed:
                self._closed = True
                self.abort(EngineError(_CLOSED))

    def precompute(self, token_ids: Sequence[int]) -> None:
        """Make sure that ``prefixes`` hold ``token_ids``, computing what no slot has.

        Takes a free slot; raises ``EngineError`` if there is none.
        """
        with self._turn:
            if self.prefixes.find(token_ids)[1] == len(token_ids):
                return
            if not self._slots.free:
                raise EngineError(_BUSY.format("nothing can be precomputed"))
            slot = max(self._slots.free, key=lambda slot: slot.shared(token_ids, ""))
            self._slots.prepare(slot, token_ids, "")
            slot.pending = list(token_ids[len(slot.keys) :])
            while slot.pending:
                self._feed(Run([slot], min(len(slot.pending), self.session.contract.max_input_len)))
            self.prefixes.add(self.session.read_kv(slot.index, token_ids))

    def _drop_cancelled(self) -> None:
        for slot in self._slots.busy:
            if slot.request is not None and slot.request.cancelled:
                _end(slot, FinishReason.CANCELLED)
        if any(request.cancelled for request in self._waiting):
            waiting, self._waiting = self._waiting, deque(r for r in self._waiting if not r.cancelled)
            for request in waiting:
                if request.cancelled:
                    request.finish(FinishReason.CANCELLED)

    def _admit(self) -> None:
        free = self._slots.free
        while self._waiting and free:
            request = self._waiting.popleft()
            if not request.config.max_new_tokens and not request.scores_prompt:
                request.finish(FinishReason.LENGTH)  # a prompt of one token, which nothing comes before
                continue
            # The last token is always fed: its logits are the first to be chosen from. For log-probabilities of the prompt
            # every token is.
            keys, salt = request.prompt_keys[:-1], request.cache_salt
            if request.config.prompt_logprobs is not None:
                keys = ()
            slot = max(free, key=lambda s: (s.shared(keys, salt), -len(s.keys), -s.index))
            free.remove(slot)
            request.admitted_at = time.perf_counter()
            self._slots.prepare(slot, keys, salt)
            slot.pending = list(request.prompt_ids[len(slot.keys) :])
            slot.sampler = Sampler(request.config, request.prompt_ids, self.session.contract.vocab_size)
            slot.request, request.reused, slot.fed_at = request, len(slot.keys), self._slots.steps
            self._slots.write_features(slot)
            self._slots.write_source(slot)
            self.stats.prompt_tokens += len(request.prompt_ids)
            self.stats.reused_tokens += len(slot.keys)

    def _score(self, slot: Slot, row: RowLogits) -> None:
        """Take the log-probability of the next token of a slot's prompt, where it is asked for."""
        request = slot.request
        if request is None or not request.scores_prompt or request.config.prompt_logprobs is None:
            return None
        logits = row.whole() if isinstance(row, TopLogits) else row
        try:
            check_finite(logits)
        except EngineError as error:
            return _end(slot, None, error)
        request.prompt_tokens.append(with_logprobs(slot.pending[0], logits, request.config.prompt_logprobs))
        if not request.config.max_new_tokens and not request.scores_prompt:
            _end(slot, FinishReason.LENGTH)
        return None

    def _choose(self, slot: Slot, logits: RowLogits) -> None:
        """Choose the next token of a slot and end its request where it ends. What fails here is that request's own."""
        request, sampler = slot.request, slot.sampler
        assert request is not None
        assert sampler is not None
        try:
            token = sampler.choose(logits)
        except TTEdgeError as error:
            return _end(slot, None, error)
        except Exception as error:  # a defect, which must not end the requests of others
            _log.exception("choosing a token failed")
            return _end(slot, None, _internal(error))
        try:
            request.last_at = time.perf_counter()
            request.first_at = request.first_at or request.last_at
            request.tokens.append(token)
            slot.pending = [token.id]
            self.stats.new_tokens += 1
            reason = request.reason_to_end(token)
            if request.on_token is not None and request.on_token(token):
                reason = FinishReason.STOP
        except Exception as error:
            return _end(slot, None, error)
        if reason is not None:
            _end(slot, reason)
        return None


def _internal(error: Exception) -> EngineError:
    internal = EngineError(f"internal error ({type(error).__name__}: {error}); please report it")
    internal.__cause__ = error
    return internal


def _end(slot: Slot, reason: FinishReason | None, error: Exception | None = None) -> None:
    request, slot.request, slot.sampler, slot.pending = slot.request, None, None, []
    assert request is not None
    request.finish(reason, error)
