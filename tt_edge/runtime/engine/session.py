"""The base of all sessions that run a compiled decoder: its inputs, the limits, and the lengths in the cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.contract import FedBy, Feeds, IOContract, Step, fed_by, feeds
from tt_edge.errors import BundleError, CapacityError, InvalidInputError
from tt_edge.runtime.engine.device_arrays import DeviceArray
from tt_edge.runtime.engine.kv_rows import Bytes, KVPrefix, Region, region
from tt_edge.runtime.engine.tokens import Given, Tokens
from tt_edge.runtime.engine.top_logits import RowLogits

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


class Session(ABC):
    """A batch of slots, each with its own past in a KV cache of ``contract.max_seq_len`` tokens.

    Slot ``i`` is row ``i`` of every batched tensor. In one call, slots may add different numbers of tokens: ids are
    right-padded to a common width S, and ``lengths`` says how many are valid. Padding is written to the cache after a slot's
    valid tokens, where the slot's next call overwrites it; no valid query ever sees it. So every slot, even one that adds
    nothing, needs S free places in its cache: TensorRT silently ignores writes beyond the capacity, but does not define RoPE
    and attention there (key lengths beyond the cache), so such a call is refused before it runs. ``generate()`` never makes
    one.

    A call is for consecutive slots, and leaves the others as they are: their part of the cache begins at the first one's, so
    the network sees them as a smaller batch. The contract decides how a call is divided into steps of the network. With a
    cache that is updated in place, one step serves all slots of the call. With a cache that passes through the network
    (``start_idx``, ``end_idx``), one step serves neighbours whose pasts have equal length. Without a cache, the session keeps
    each slot's tokens and passes the whole sequences to the network.

    Subclasses run the network in ``_execute`` and allocate memory for a batch in ``_allocate``.
    """

    def __init__(self, contract: IOContract) -> None:
        self.contract = contract
        self._past = np.zeros(0, np.int32)
        if contract.inputs_fed_by(FedBy.EDGE_LLM):
            raise InvalidInputError(
                "the bundle is laid out for NVIDIA's Edge-LLM runtime, which looks up embeddings by itself; run it there, or "
                "compile without --layout edge-llm"
            )
        given = {name for name in contract.cache_names if fed_by(name) is FedBy.CACHE}
        by_session = (FedBy.STEP, FedBy.TABLE, FedBy.CROSS)
        given |= {spec.name for source in by_session for spec in contract.inputs_fed_by(source)}
        unknown = next((spec.name for spec in contract.inputs if spec.name not in given), None)
        if unknown is not None:
            raise BundleError(
                f"the compiled model needs an input {unknown!r}, which this runtime does not give; update tt-edge"
            )
        #: Whether the network outputs the logits of every token, for ``forward(every_token=True)``.
        self.has_full_logits = len(contract.output("logits").shape) == 3
        self._history: list[Tokens] = []
        self._cross_lengths = np.zeros(contract.max_batch, np.int32)

    @property
    @abstractmethod
    def word(self) -> str:
        """How the tokens were computed, for reports: e.g. ``evaluated by the reference session``."""

    @property
    def past_lengths(self) -> NDArray[np.int32]:
        """Number of tokens in each slot's cache, int32 ``[B]`` (a copy)."""
        return self._past.copy()

    def reset(self, batch: int) -> None:
        """Start over with ``batch`` empty slots. Raises ``CapacityError`` for more than ``contract.max_batch``."""
        if not 1 <= batch <= self.contract.max_batch:
            raise CapacityError(
                f"a batch of {batch} slots does not fit the compiled model (1 to {self.contract.max_batch}); "
                "run fewer prompts at once or compile with a larger --max-batch"
            )
        self._allocate(batch)
        self._past = np.zeros(batch, np.int32)
        self._history = [Tokens.text((), self.contract.position_axes)] * batch

    def truncate(self, lengths: NDArray[np.integer] | list[int]) -> None:
        """Rewind each slot to its first ``lengths`` tokens (``[B]``, none longer than the slot's past)."""
        wanted = np.asarray(lengths, np.int32)
        if wanted.shape != self._past.shape or (wanted < 0).any() or (wanted > self._past).any():
            raise InvalidInputError(
                f"cannot rewind slots of {self._past.tolist()} tokens to {wanted.tolist()}; give 0 to the slot's length"
            )
        self._past = wanted.copy()
        self._history = [tokens.first(length) for tokens, length in zip(self._history, wanted, strict=True)]

    def forward(
        self,
        input_ids: Ids,
        lengths: NDArray[np.integer],
        positions: NDArray[np.int64] | None = None,
        image_indices: NDArray[np.int32] | None = None,
        *,
        first: int = 0,
        every_token: bool = False,
    ) -> Logits:
        """Add tokens to the ``B`` slots from slot ``first`` on; return the logits of each one's last token.

        ``input_ids`` int64 ``[B, S]``, right-padded with any valid id; ``lengths`` ``[B]``, 0 to S valid ids per slot.
        ``positions`` int64 ``[axes, B, S]``, below ``max_seq_len``, are for M-RoPE; by default, a token's index in its
        sequence. ``image_indices`` int32 ``[B, S]`` are rows of the feature tables (``write_features``), -1 for text.
        Returns float32 ``[B, V]``, which the next call may overwrite. A slot of length 0 keeps its past, and its logits are
        meaningless. ``first`` must be 0 unless ``starts_anywhere``. With ``every_token``, which needs ``has_full_logits``, the
        logits of all S tokens are returned, ``[B, S, V]``; those of padding are meaningless.
        Raises ``InvalidInputError`` for wrong shapes and ``CapacityError`` beyond the contract's limits, before anything
        runs.
        """
        if every_token and not self.has_full_logits:
            raise InvalidInputError(
                "the compiled model outputs the logits of the last token only; compile with --full-logits"
            )
        input_ids, lengths = np.asarray(input_ids), np.asarray(lengths)
        self._check(input_ids, lengths, first, positions, image_indices)
        slots = slice(first, first + len(input_ids))
        groups = self._groups(slots) if self.contract.kv_cache else []
        if len(groups) == 1:
            logits = self._step(slots, Given(input_ids, positions, image_indices), lengths, every_token=every_token)
        else:
            tokens = self._with_positions(Given(input_ids, positions, image_indices), slots)
            logits = self._in_groups(groups, tokens, lengths, slots, every_token)
        self._past[slots] += lengths.astype(np.int32)
        return logits.astype(np.float32, copy=False)

    def forward_rows(
        self,
        input_ids: Ids,
        lengths: NDArray[np.integer],
        positions: NDArray[np.int64] | None = None,
        image_indices: NDArray[np.int32] | None = None,
        *,
        first: int = 0,
    ) -> Sequence[RowLogits]:
        """As ``forward``, but one entry for each slot: where the network selects the largest logits, only these are copied.

        What is not copied can still be had, until the next call (``TopLogits.whole``).
        """
        input_ids, lengths = np.asarray(input_ids), np.asarray(lengths)
        slots = slice(first, first + len(input_ids))
        if not self.contract.top_count or not self.contract.kv_cache or len(self._groups(slots)) != 1:
            return list(self.forward(input_ids, lengths, positions, image_indices, first=first))
        self._check(input_ids, lengths, first, positions, image_indices)
        rows = self._execute_rows(self._feeds(slots, Given(input_ids, positions, image_indices), lengths), slots)
        self._past[slots] += lengths.astype(np.int32)
        return rows

    def _in_groups(
        self, groups: Sequence[slice], tokens: Tokens, lengths: NDArray[np.integer], slots: slice, every_token: bool
    ) -> Logits:
        """A call that takes a step of the network for each of ``groups``; without a cache, one of whole sequences."""
        if not groups:
            return self._whole_sequences(tokens, lengths, slots, every_token)
        places = tokens.ids.shape if every_token else lengths.shape
        logits = np.zeros((*places, self.contract.vocab_size), np.float32)
        for group in groups:
            rows = slice(group.start - slots.start, group.stop - slots.start)
            if width := int(lengths[rows].max()):
                part = logits[rows, :width] if every_token else logits[rows]
                part[...] = self._step(group, tokens.at(rows, width), lengths[rows], every_token=every_token)
        return logits

    def _groups(self, slots: slice) -> list[slice]:
        """The parts of ``slots`` that one step of the network each can serve."""
        if self.contract.kv_in_place and not self.contract.in_lockstep:
            return [slots]
        keys = [(self._past[slot], self._buffer_of(slot)) for slot in range(slots.start, slots.stop)]
        starts = [slots.start + i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]]
        return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], slots.stop], strict=True)]

    def _buffer_of(self, slot: int) -> int:
        """Which of two cache buffers holds the slot's past; slots of one step must agree."""
        return 0

    def _with_positions(self, tokens: Given, slots: slice) -> Tokens:
        """``tokens`` with default positions and image indices if none were given."""
        shape, positions, indices = tokens.ids.shape, tokens.positions, tokens.image_indices
        if positions is None:
            places = self._past[slots, None] + np.arange(shape[1])
            positions = np.broadcast_to(places, (self.contract.position_axes, *shape))
        if indices is None:
            indices = np.full(shape, -1, np.int32)
        return Tokens(tokens.ids, positions, indices)

    def _feeds(
        self, rows: slice, tokens: Tokens | Given, lengths: NDArray[np.integer], past: np.ndarray | None = None
    ) -> Feeds:
        """The network's inputs for a step of the slots ``rows``."""
        past = self._past[rows].copy() if past is None else past
        cross = self._cross_lengths[rows]
        return feeds(
            Step(self.contract, tokens.ids, lengths, past, tokens.positions, tokens.image_indices, rows.start, cross)
        )

    def _step(
        self,
        rows: slice,
        tokens: Tokens | Given,
        lengths: NDArray[np.integer],
        past: np.ndarray | None = None,
        *,
        every_token: bool = False,
    ) -> Logits:
        """Run the network once on the slots ``rows``; returns their last tokens' logits, ``[B, V]``, or all, ``[B, S, V]``."""
        logits = self._execute(self._feeds(rows, tokens, lengths, past), rows)
        if self.has_full_logits and not every_token:  # [B, S, V]
            if logits.shape[1] == 1:
                return logits[:, 0]
            logits = logits[np.arange(len(lengths)), np.maximum(lengths - 1, 0)]
        return logits

    def _whole_sequences(self, tokens: Tokens, lengths: NDArray[np.integer], slots: slice, every_token: bool) -> Logits:
        """A step without a cache: every slot's tokens so far and its new ones, right-padded."""
        extended = [
            old.followed_by(tokens.row(row, length))
            for row, (old, length) in enumerate(zip(self._history[slots], lengths, strict=True))
        ]
        totals = np.array([len(row.ids) for row in extended])
        padded = Tokens.padded(extended, max(int(totals.max()), 1))
        logits = self._step(slots, padded, totals, np.zeros(len(totals), np.int32), every_token=every_token)
        self._history[slots] = extended
        if not every_token:
            return logits
        new = np.zeros((*tokens.ids.shape, logits.shape[-1]), np.float32)  # of the tokens of this call
        for row, (total, length) in enumerate(zip(totals.tolist(), lengths.tolist(), strict=True)):
            new[row, :length] = logits[row, total - length : total]
        return new

    @cached_property
    def starts_anywhere(self) -> bool:
        """Whether a call may begin at a slot other than 0."""
        return True

    def read_kv(self, row: int, token_ids: Sequence[int]) -> KVPrefix:
        """Copy the keys and values of a slot's first tokens to the host. The caller knows that these are ``token_ids``."""
        if len(token_ids) > self._past[row]:
            raise InvalidInputError(
                f"slot {row} has {self._past[row]} tokens, not {len(token_ids)}; read at most that many"
            )
        tensors = {
            pair.past: self._read_row(pair.past, self._region(pair.past, row), len(token_ids))
            for pair in self.contract.kv_cache
        }
        return KVPrefix(tuple(token_ids), tensors)

    def write_kv(self, row: int, prefix: KVPrefix) -> None:
        """Make ``prefix``, read from a session with the same contract, the past of slot ``row``."""
        if len(prefix.token_ids) > self.contract.max_seq_len:
            raise CapacityError(f"{len(prefix.token_ids)} tokens exceed max_seq_len {self.contract.max_seq_len}")
        for pair in self.contract.kv_cache:
            self._write_row(pair.past, self._region(pair.past, row), prefix.tensors[pair.past])
        self._past[row] = len(prefix.token_ids)
        self._history[row] = Tokens.text(prefix.token_ids, self.contract.position_axes)

    def write_features(self, row: int, features: Mapping[str, np.ndarray]) -> None:
        """Write the features of a slot's images, ``[n, hidden]`` by table, to the slot's part of the feature tables.

        That begins at ``row * contract.max_image_tokens``. Raises ``CapacityError`` if they do not fit.
        """
        limit = self.contract.max_image_tokens
        for table in self.contract.feature_tables:
            array = features[table.name]
            if array.ndim != 2 or array.shape[1] != table.shape[1]:
                raise InvalidInputError(f"{table.name} has shape {array.shape}; pass [n, {table.shape[1]}]")
            if len(array) > limit:
                raise CapacityError(
                    f"{len(array)} image tokens exceed the compiled model's {limit}; give fewer or smaller images, or "
                    "compile with a larger --max-image-tokens"
                )
            self._write_table(table.name, row * limit, np.ascontiguousarray(array, table.dtype.numpy))

    def write_cross(self, row: int, cross: Mapping[str, np.ndarray | DeviceArray], length: int) -> None:
        """Make ``length`` places of a source, as the encoder part gives them, what the slot ``row`` attends to.

        ``cross`` has keys and values ``[H, T, D]`` by name, of which the first ``length`` places are written. They stay on the
        device until the slot's next source. Raises ``CapacityError`` for a source that is too long.
        """
        limit = self.contract.cross_places
        if not 1 <= length <= limit:
            raise CapacityError(
                f"a source of {length} tokens does not fit the compiled model, which takes 1 to {limit}; shorten it, or compile "
                "with a larger --max-source-len"
            )
        for spec in self.contract.cross:
            given = cross[spec.name]
            if isinstance(given, DeviceArray) and given.dtype == spec.dtype.numpy:
                self._copy_row(spec.name, self._region(spec.name, row), given, length)
                continue
            given = given.numpy() if isinstance(given, DeviceArray) else given
            data = np.ascontiguousarray(given[:, :length], spec.dtype.numpy).view(np.uint8)
            self._write_row(spec.name, self._region(spec.name, row), data)
        self._cross_lengths[row] = length

    def _copy_row(self, name: str, region: Region, source: DeviceArray, length: int) -> None:
        """Write the first ``length`` places of ``source``; a session without device memory gets them from there."""
        data = np.ascontiguousarray(source.numpy()[:, :length]).view(np.uint8)
        self._write_row(name, region, data)

    def _region(self, name: str, row: int) -> Region:
        return region(self.contract.input(name), self.contract, row)

    def close(self) -> None:  # noqa: B027 (sessions without device memory have nothing to do)
        """Release all resources. Closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @abstractmethod
    def _allocate(self, batch: int) -> None:
        """Prepare a KV cache for ``batch`` slots. Its initial contents do not matter: unwritten places are never read."""

    @abstractmethod
    def _execute(self, feeds: Feeds, rows: slice) -> np.ndarray:
        """Run the network for the slots ``rows`` and update their caches. ``feeds`` are all inputs except the cache.

        Returns the contract's ``logits`` of these slots, ``[B, V]`` or ``[B, S, V]``; the next call may overwrite them.
        """

    def _execute_rows(self, feeds: Feeds, rows: slice) -> Sequence[RowLogits]:
        """As ``_execute``, for a network that selects the largest logits: an entry for each slot."""
        return list(self._execute(feeds, rows))

    @abstractmethod
    def _read_row(self, name: str, region: Region, length: int) -> Bytes:
        """A copy of the first ``length`` tokens of a slot in the cache ``name``: ``[runs, length, token_bytes]``."""

    @abstractmethod
    def _write_row(self, name: str, region: Region, data: Bytes) -> None:
        """The reverse of ``_read_row``."""

    @abstractmethod
    def _write_table(self, name: str, first: int, rows: np.ndarray) -> None:
        """Replace ``rows`` of a feature table, starting at row ``first``."""

    def _check(
        self,
        input_ids: np.ndarray,
        lengths: np.ndarray,
        first: int,
        positions: np.ndarray | None,
        image_indices: np.ndarray | None,
    ) -> None:
        # In plain Python: for the few slots of a step this takes a fraction of NumPy's time.
        contract, slots = self.contract, len(self._past)
        if not slots:
            raise InvalidInputError("the session has no slots; call reset(batch) first")
        if not 0 <= first < slots or (first and not self.starts_anywhere):
            raise InvalidInputError(
                f"a call cannot begin at slot {first}; give 0" + (f" to {slots - 1}" if self.starts_anywhere else "")
            )
        if input_ids.ndim != 2 or not 1 <= len(input_ids) <= slots - first or lengths.shape != (len(input_ids),):
            raise InvalidInputError(
                f"input_ids {input_ids.shape} and lengths {lengths.shape} do not fit {slots - first} slots; "
                f"pass [B, S] and [B] with B up to {slots - first}, or reset the session"
            )
        width, counts = input_ids.shape[1], lengths.tolist()
        if not width or min(counts) < 0 or max(counts) > width:
            raise InvalidInputError(f"lengths {counts} do not fit input_ids of width {width}; give 0 to width")
        if width > contract.max_input_len:
            raise CapacityError(
                f"{width} new tokens per slot exceed max_input_len {contract.max_input_len}; "
                "feed them in chunks or compile with a larger --max-input-len"
            )
        pasts, capacity = self._past[first : first + len(counts)].tolist(), contract.max_seq_len
        full = max(pasts) + width > capacity  # of most calls no slot is
        for slot, (past, length) in enumerate(zip(pasts, counts, strict=True) if full else (), first):
            if past + length > capacity:
                raise CapacityError(
                    f"slot {slot} would hold {past + length} tokens, more than max_seq_len {capacity}; "
                    "shorten it or compile with a larger --max-seq-len"
                )
            if past + width > capacity:
                raise CapacityError(
                    f"slot {slot} has {capacity - past} free places and {width} ids with padding; "
                    "feed fewer tokens per call or compile with a larger --max-seq-len"
                )
        if positions is None:
            return
        shape = (contract.position_axes, *input_ids.shape)
        if positions.shape != shape or (image_indices is not None and image_indices.shape != input_ids.shape):
            raise InvalidInputError(
                f"positions {positions.shape} do not fit input_ids {input_ids.shape}; pass {list(shape)}"
            )
        if positions.min() < 0 or positions.max() >= contract.max_seq_len:
            raise CapacityError(
                f"positions {positions.min()} to {positions.max()} exceed the compiled model's, 0 to "
                f"{contract.max_seq_len - 1}; shorten the prompt or compile with a larger --max-seq-len"
            )
