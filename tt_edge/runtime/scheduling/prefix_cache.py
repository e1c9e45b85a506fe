"""Beginnings of prompts whose keys and values are kept in host memory: a system prompt is computed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tt_edge.runtime.engine.kv_rows import KVPrefix


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    count = min(len(one), len(other))
    different = np.flatnonzero(np.asarray(one[:count]) != np.asarray(other[:count]))
    return int(different[0]) if len(different) else count


class PrefixCache:
    """Prefixes up to ``max_bytes`` in all; the one that was used the longest ago goes first."""

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self.max_bytes = max_bytes
        self._prefixes: list[KVPrefix] = []  # least recently used first

    def __len__(self) -> int:
        return len(self._prefixes)

    @property
    def prefixes(self) -> tuple[KVPrefix, ...]:
        """All of them, the least recently used first."""
        return tuple(self._prefixes)

    def find(self, token_ids: Sequence[int]) -> tuple[KVPrefix | None, int]:
        """The prefix that begins with most of ``token_ids``, and how many; ``None`` and 0 if none has even the first."""
        lengths = [common_prefix(prefix.token_ids, token_ids) for prefix in self._prefixes]
        if not any(lengths):
            return None, 0
        best = int(np.argmax(lengths))
        prefix = self._prefixes.pop(best)
        self._prefixes.append(prefix)
        return prefix, lengths[best]

    def add(self, prefix: KVPrefix) -> None:
        """Keep ``prefix`` in place of those that it begins with; one that is too large for the cache is not kept."""
        if prefix.nbytes > self.max_bytes:
            return
        kept = [p for p in self._prefixes if common_prefix(p.token_ids, prefix.token_ids) < len(p.token_ids)]
        self._prefixes = [*kept, prefix]
        while sum(p.nbytes for p in self._prefixes) > self.max_bytes:
            self._prefixes.pop(0)
