"""Faults of TensorRT and system releases that are known from public threads. One entry a fault; nothing here is guessed.

``traps_for`` says which apply to a machine and, where one is given, a bundle; ``tt-edge verify --bisect`` prints them beside
the layer that it found wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tt_edge.doctor.findings import Finding, Level
from tt_edge.network.build_options import least_profile_batch
from tt_edge.platforms import PLATFORMS
from tt_edge.tensorrt_api import Flavour, TensorRT


@dataclass(frozen=True)
class Situation:
    """What decides whether a trap applies. "" and ``None`` where something is not known.

    ``jetson_linux`` is such as ``36.4.7``; ``max_batch`` and ``quantization`` are the bundle's; ``largest`` is the bytes of
    the largest piece of device memory that running it takes.
    """

    flavour: str
    version: str
    compute_capability: str
    jetson_linux: str = ""
    max_batch: int | None = None
    quantization: str = ""
    largest: int = 0

    @property
    def release(self) -> tuple[int, ...]:
        return numbers(self.version)

    @property
    def is_standard(self) -> bool:
        return self.flavour == Flavour.STANDARD.value

    @property
    def fuses_wrongly_at_batch_1(self) -> bool:
        """Whether ``tt-edge build`` gives profiles a larger batch than the bundle's, because this release needs it."""
        flavour = Flavour(self.flavour) if self.flavour else Flavour.LEAN
        return least_profile_batch(TensorRT(flavour, None, self.version), self.compute_capability) > 1


@dataclass(frozen=True)
class Trap:
    """A known fault: when it applies, what happens, what to do, and where it is described."""

    name: str
    level: Level
    applies: Callable[[Situation], bool]
    text: str
    remedy: str
    source: str

    def finding(self) -> Finding:
        return Finding(self.level, "known fault", self.text, self.remedy, self.source)


def numbers(version: str) -> tuple[int, ...]:
    """``(10, 13, 3)`` of ``10.13.3``."""
    return tuple(int(number) for number in re.findall(r"\d+", version)) or (0,)


#: Compute capabilities of TensorRT-RTX 1.x; it refuses others when an engine is loaded.
_RTX_EXECUTES = PLATFORMS["rtx"].compute_capabilities

TRAPS: tuple[Trap, ...] = (
    Trap(
        "horizontal fusion at batch 1",
        "note",
        lambda s: s.fuses_wrongly_at_batch_1 and s.max_batch in (None, 1),
        "TensorRT 10.13.3 on Thor computes q/k/v and gate/up wrongly where a profile's largest batch is 1 (a fusion of products "
        "that share an input)",
        "`tt-edge build` avoids it: there it gives profiles a largest batch of 2; rebuild engines that came from elsewhere, and "
        "run `tt-edge verify`",
        "NVIDIA/TensorRT-Edge-LLM#151, #105",
    ),
    Trap(
        "FP8 and FP4 become FP32",
        "warning",
        lambda s: s.is_standard and s.compute_capability == "sm110" and s.release[:2] == (10, 13)
        and s.quantization in ("fp8", "nvfp4"),
        "TensorRT 10.13.3 on Thor was reported to build FP32 layers where FP8 or FP4 was asked for by builder flags, without a "
        "word; bundles ask by types of the network, for which there is no report",
        "`tt-edge verify` compares the type of every product in the engine with the one that was asked for",
        "NVIDIA/TensorRT#4590",
    ),
    Trap(
        "large allocations on Jetson Linux 36.4.7",
        "warning",
        lambda s: (36, 4, 7) <= numbers(s.jetson_linux) < (36, 5) and s.largest >= 1 << 30,
        "from Jetson Linux 36.4.7 on, a single large cudaMalloc may fail (NvMapMemAllocInternalTagged, error 12) though memory is "
        "free",
        "reboot and load the engine before anything else, or update to Jetson Linux 36.5",
        "ggml-org/llama.cpp#23732",
    ),
    Trap(
        "TensorRT 11 refuses Jetson",
        "wrong",
        lambda s: s.is_standard and bool(s.jetson_linux) and (11, 0) <= s.release < (11, 4, 1),
        "TensorRT 11.0 to 11.4.0 do not run on a Jetson",
        "use the TensorRT of the JetPack, or 11.4.1 on JetPack 7.2.2",
        "NVIDIA's migration pages of TensorRT 11.2 to 11.4",
    ),
    Trap(
        "TensorRT-RTX executes on some GPUs",
        "wrong",
        lambda s: s.flavour == Flavour.RTX.value
        and bool(s.compute_capability)
        and s.compute_capability not in _RTX_EXECUTES,
        f"TensorRT-RTX executes engines on {', '.join(_RTX_EXECUTES)} only",
        "install standard TensorRT and run `tt-edge build` here",
        "TensorRT-RTX 1.6 refused an H100; others by NVIDIA's announcement, not tried",
    ),
)  # fmt: skip


def traps_for(situation: Situation) -> list[Trap]:
    """The known faults that apply."""
    return [trap for trap in TRAPS if trap.applies(situation)]
