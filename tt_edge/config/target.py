"""The GPUs that engines are built for. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tt_edge.config.base import JsonConfig, require
from tt_edge.platforms import parse_platform


@dataclass(frozen=True)
class EngineTarget(JsonConfig):
    """Which GPUs to build an engine for.

    ``compute_capabilities`` such as ``("sm89", "sm120")`` are built ahead of time into one engine each; ``local``
    builds for the GPU in this machine; neither builds none (the bundle still holds the network, for the target to build).
    ``platforms``, such as ``jetpack-7.2``, must be able to build the bundle; see ``tt_edge.platforms``.
    """

    compute_capabilities: tuple[str, ...] = ()
    local: bool = False
    platforms: tuple[str, ...] = ()

    def check(self) -> None:
        for platform in self.platforms:
            parse_platform(platform)
        for name in self.compute_capabilities:
            require(
                re.fullmatch(r"sm\d{2,3}", name) is not None,
                f"engine target {name!r} is not of the form sm89; give e.g. --engine sm89,sm120, local or none",
            )

    @property
    def targets(self) -> list[str | None]:
        """The targets to build for: compute capabilities, and ``None`` for the local GPU."""
        return [*self.compute_capabilities, *([None] if self.local else [])]

    @classmethod
    def parse(cls, text: str, platforms: Sequence[str] = ()) -> EngineTarget:
        """Parse ``sm89,sm120``, ``local`` or ``none`` (the command line's ``--engine``), beside names of ``--target``."""
        names = [part.strip().lower() for part in text.split(",") if part.strip()]
        require(bool(names), f"engine target {text!r} is empty; give e.g. --engine sm89,sm120, local or none")
        if names == ["none"]:
            return cls(platforms=tuple(platforms))
        return cls(
            compute_capabilities=tuple(dict.fromkeys(n for n in names if n != "local")),
            local="local" in names,
            platforms=tuple(platforms),
        )
