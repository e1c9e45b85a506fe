"""Facts of a machine, and the known faults that they tell of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tt_edge.doctor.findings import Finding
from tt_edge.doctor.gpu import Gpu, read_gpu
from tt_edge.doctor.memory import Memory, free_disk, read_memory
from tt_edge.doctor.software import Library, Package, python, read_library, read_packages, system_bindings
from tt_edge.doctor.system import System, read_system
from tt_edge.doctor.traps import Situation, traps_for


@dataclass(frozen=True)
class Facts:
    """What is here. ``gpu`` is a reason where there is none that can be used; ``disk_free`` is in bytes."""

    system: System
    memory: Memory
    gpu: Gpu | str
    packages: tuple[Package, ...]
    library: Library | None
    hidden_bindings: str | None
    disk_free: int
    python: str

    @property
    def compute_capability(self) -> str:
        return self.gpu.compute_capability if isinstance(self.gpu, Gpu) else ""

    @property
    def usable(self) -> tuple[Package, ...]:
        """The TensorRT packages that can be imported."""
        return tuple(package for package in self.packages if not package.error)


def gather(root: Path, folder: Path, plugin_path: str | None = None) -> Facts:
    """All facts. ``folder`` is where a bundle lies, or would."""
    return Facts(
        system=read_system(root),
        memory=read_memory(root),
        gpu=read_gpu(),
        packages=read_packages(),
        library=read_library(plugin_path),
        hidden_bindings=system_bindings(root),
        disk_free=free_disk(folder),
        python=python(),
    )


def trap_findings(facts: Facts, **bundle: Any) -> Iterator[Finding]:
    """Known faults of what is here; ``bundle`` has the fields of ``Situation`` that are a bundle's."""
    for package in facts.usable or (Package(""),):
        situation = Situation(
            package.flavour,
            package.version,
            facts.compute_capability,
            facts.system.release if facts.system.kind == "jetson" else "",
            **bundle,
        )
        yield from (trap.finding() for trap in traps_for(situation))
