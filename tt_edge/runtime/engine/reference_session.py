"""Running the captured network in NumPy: slow, but with the exact semantics, and on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tt_edge.contract import BATCH, TOP_OUTPUTS, Feeds, IOContract
from tt_edge.network.ir import Network
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.network.reference.device import to_host
from tt_edge.runtime.engine.kv_rows import Bytes, Region
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.engine.top_logits import RowLogits, TopBatch


class ReferenceSession(Session):
    """Evaluates ``network`` with TensorRT's semantics. No TensorRT, and no GPU unless ``arrays`` is CuPy's module."""

    def __init__(self, network: Network, contract: IOContract, arrays: Any = np) -> None:
        super().__init__(contract)
        self._arrays = arrays
        self._evaluator = ReferenceEvaluator(network, arrays=arrays)
        self._cache: Feeds = {}
        self._outputs: Feeds = {}
        batch = contract.max_batch
        self._cross = {t.name: arrays.zeros(t.resolve(batch=batch), t.dtype.numpy) for t in contract.cross}
        self._tables = {t.name: arrays.zeros(t.resolve(), t.dtype.numpy) for t in contract.feature_tables}

    @property
    def word(self) -> str:
        where = "" if self._arrays is np else ", on a GPU by CuPy"
        return f"evaluated by the reference session{where}"

    def _allocate(self, batch: int) -> None:
        specs = [self.contract.input(pair.past) for pair in self.contract.kv_cache]
        # Zeros instead of empty: NaNs in unwritten places would survive a masked product of 0 x NaN.
        self._cache = {spec.name: self._arrays.zeros(spec.resolve(batch=batch), spec.dtype.numpy) for spec in specs}

    def inputs(self, feeds: Feeds, rows: slice) -> Feeds:
        """All inputs of one network step: the feeds, the slots' caches and sources, and the feature tables."""
        # The evaluator's KV_CACHE_UPDATE writes into the fed arrays, as TensorRT does into the bound address.
        pooled = [name for name in self._cache if self.contract.input(name).shape[0] != BATCH]
        caches = {name: cache if name in pooled else cache[rows] for name, cache in self._cache.items()}
        cross = {name: array[rows] for name, array in self._cross.items()}
        return {**feeds, **caches, **cross, **self._tables}

    def _execute(self, feeds: Feeds, rows: slice) -> np.ndarray:
        out = self._outputs = self._evaluator.run(self.inputs(feeds, rows))
        if not self.contract.kv_in_place:
            for pair in self.contract.kv_cache:
                self._cache[pair.past][rows] = self._arrays.asarray(out[pair.present])
        return out["logits"]

    def _execute_rows(self, feeds: Feeds, rows: slice) -> Sequence[RowLogits]:
        logits = self._execute(feeds, rows)
        if not self.contract.top_count:
            return list(logits)
        values, ids, totals = (self._outputs[name] for name in TOP_OUTPUTS)
        return TopBatch(values, ids, totals.tolist(), self.contract.vocab_size, logits.__getitem__).rows()

    def _write_table(self, name: str, first: int, rows: np.ndarray) -> None:
        self._tables[name][first : first + len(rows)] = self._arrays.asarray(rows)

    def _read_row(self, name: str, region: Region, length: int) -> Bytes:
        return region.view(to_host(self._cache[name]), length).copy()

    def _write_row(self, name: str, region: Region, data: Bytes) -> None:
        cache = self._cross[name] if name in self._cross else self._cache[name]
        if isinstance(cache, np.ndarray):
            region.view(cache, data.shape[1])[...] = data
            return
        host = to_host(cache)
        region.view(host, data.shape[1])[...] = data
        cache[...] = self._arrays.asarray(host)
