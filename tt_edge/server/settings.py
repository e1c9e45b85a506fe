"""Settings of a server."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """``timeout_s`` seconds a request, ``max_body`` bytes; ``hosts`` are the names that the server goes by, ``None`` any.

    ``api_keys``: clients must send one of them; with several, each client's prompts are computed from the KV cache of its own
    prompts only. Without ``max_body`` it is 1 MiB, or 32 MiB where the model takes images or speech.
    """

    api_keys: Sequence[str] = ()
    timeout_s: float = 600.0
    max_body: int | None = None
    hosts: Collection[str] | None = None
