"""What a build may be told beside its target. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tt_edge import cuda
from tt_edge.atomic import replace_file
from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.tensorrt_api import Flavour, TensorRT


@dataclass(frozen=True)
class BuildOptions:
    """What a build may be told beside its target."""

    #: Device memory that the builder may use for trying, in bytes; ``None``: all.
    workspace_bytes: int | None = None
    #: Timings of kernels, kept between builds: read where it is there, and written.
    timing_cache: Path | None = None
    #: An engine that later TensorRT of the same major version runs.
    version_compatible: bool = False
    #: An engine without weights, which are put in when it is loaded.
    strip_weights: bool = False

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise InvalidInputError(f"a workspace of {self.workspace_bytes} bytes is too small; give at least 1 MiB")

    def fitting(self, tensorrt: TensorRT) -> tuple[BuildOptions, list[str]]:
        """These options without what this TensorRT has no use for here, and a line on each that was left out.

        Raises ``EngineError`` for one whose lack would make another engine than was asked for.
        """
        fitting, notes, name = self, [], f"{tensorrt.flavour} {tensorrt.version}"
        if self.version_compatible and not tensorrt.has_lean_runtime:
            raise EngineError(
                f"{name} builds no version-compatible engines (it has no lean runtime); leave --version-compatible out, "
                "or build with standard TensorRT"
            )
        if self.timing_cache is not None and not tensorrt.has_timing_cache:
            notes.append(f"{name} keeps no timings, so {self.timing_cache} is neither read nor written")
            fitting = replace(fitting, timing_cache=None)
        if self.strip_weights and tensorrt.builds_ahead_of_time and not cuda.is_available():
            notes.append(f"{name} strips weights only where there is a GPU, so the engine holds its weights")
            fitting = replace(fitting, strip_weights=False)
        return fitting, notes


def least_profile_batch(tensorrt: TensorRT, compute_capability: str) -> int:
    """The smallest largest batch that an optimization profile may have here; 1 where any is right.

    TensorRT 10.13.3 on Thor computes products that share an input (q/k/v, gate/up) wrongly where a profile's largest batch
    is 1 (NVIDIA/TensorRT-Edge-LLM#151, #105). NVIDIA's own builder turns that fusion off at batch 1 from 10.15 on, so later
    releases are treated alike.
    """
    release = tuple(int(number) for number in re.findall(r"\d+", tensorrt.version)[:2])
    affected = tensorrt.flavour is Flavour.STANDARD and compute_capability == "sm110" and release >= (10, 13)
    return 2 if affected else 1


class TimingCache:
    """A file of kernel timings of one GPU and one TensorRT, given to a build and written back after it."""

    def __init__(self, tensorrt: TensorRT, config: Any, path: Path) -> None:
        self.config, self.path = config, path
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise InvalidInputError(f"timing cache {path} cannot be read ({error.strerror}); give another") from error
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):
            raise EngineError(
                f"{path} is no timing cache of this GPU and {tensorrt.flavour} {tensorrt.version}; "
                "delete it or give another --timing-cache"
            )

    def write(self) -> None:
        """Put what the build added into the file, in one rename."""
        replace_file(self.path, memoryview(self.config.get_timing_cache().serialize()))
