"""The form that a network is built in, by name. It needs no rules, so that reading a manifest does not load them."""

from __future__ import annotations

from dataclasses import dataclass

from tt_edge.tensorrt_features import (
    ATTENTION,
    ATTENTION_LENGTHS,
    KV_CACHE_UPDATE,
    ROTARY_EMBEDDING,
    SQUEEZE,
    Feature,
    lacking,
)

#: The features that a rule of ``legalize`` replaces.
REPLACEABLE: frozenset[Feature] = frozenset({ATTENTION_LENGTHS, ATTENTION, KV_CACHE_UPDATE, ROTARY_EMBEDDING, SQUEEZE})


@dataclass(frozen=True)
class Form:
    """The form that a network is built in: as captured, except for the features that are ``replaced``."""

    replaced: frozenset[Feature] = frozenset()

    @property
    def in_place(self) -> bool:
        """Whether the KV cache is updated in place, or passes through the network."""
        return KV_CACHE_UPDATE not in self.replaced

    @property
    def attention(self) -> str:
        """The layers that compute attention, as text."""
        if ATTENTION in self.replaced:
            return "matrix multiplies and a softmax"
        return "attention layers with a mask" if ATTENTION_LENGTHS in self.replaced else "attention layers"

    @property
    def name(self) -> str:
        """Names of the features that are replaced, the oldest first; ``captured`` if none is."""
        return "+".join(f"no_{feature.name}" for feature in lacking(self.replaced, ())) or "captured"

    def __str__(self) -> str:
        if not self.replaced:
            return "as captured"
        parts = [self.attention] if self.replaced & {ATTENTION, ATTENTION_LENGTHS} else []
        parts += ["a KV cache that goes through the network"] * (not self.in_place)
        parts += ["rotary embedding as arithmetic"] * (ROTARY_EMBEDDING in self.replaced)
        return ", ".join(parts) or "squeezes as shuffles"

    @classmethod
    def parse(cls, name: str) -> Form:
        """The form with ``name``. Raises ``ValueError`` for an unknown name."""
        if name == "captured":
            return cls()
        by_name = {f"no_{feature.name}": feature for feature in REPLACEABLE}
        if unknown := [part for part in name.split("+") if part not in by_name]:
            raise ValueError(f"{unknown[0]!r} is no part of a network's form")
        return cls(frozenset(by_name[part] for part in name.split("+")))
