"""Options of an engine build, apart from its target. Torch-free."""

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
    """Options of an engine build, apart from its target."""

    #: Device memory that the builder may use for tactics, in bytes; ``None``: all.
    workspace_bytes: int | None = None
    #: A file of kernel timings, kept between builds: read if it exists, and written.
    timing_cache: Path | None = None
    #: Build an engine that later TensorRT releases of the same major version can run.
    version_compatible: bool = False
    #: Build an engine without weights, which are added when it is loaded.
    strip_weights: bool = False

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise InvalidInputError(f"a workspace of {self.workspace_bytes} bytes is too small; give at least 1 MiB")

    def fitting(self, tensorrt: TensorRT) -> tuple[BuildOptions, list[str]]:
        """These options without those that this TensorRT does not support here, and a line about each that was dropped.

        Raises ``EngineError`` if dropping an option would make a different engine from the one requested.
        """
        fitting, notes, name = self, [], f"{tensorrt.flavour} {tensorrt.version}"
        if self.version_compatible and not tensorrt.has_lean_runtime:
            raise EngineError(
                f"{name} builds no version-compatible engines (it has no lean runtime); omit --version-compatible, "
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
    """The lowest maximum batch that an optimization profile may have on this target; 1 if there is no restriction.

    TensorRT 10.13.3 on Thor computes products that share an input (q/k/v, gate/up) wrongly if a profile's maximum batch
    is 1 (NVIDIA/TensorRT-Edge-LLM#151, #105). NVIDIA's own builder turns that fusion off at batch 1 from 10.15 on, so later
    releases are treated in the same way.
    """
    release = tuple(int(number) for number in re.findall(r"\d+", tensorrt.version)[:2])
    affected = tensorrt.flavour is Flavour.STANDARD and compute_capability == "sm110" and release >= (10, 13)
    return 2 if affected else 1


class TimingCache:
    """A file of kernel timings for one GPU and one TensorRT version, read before a build and written back after it."""

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
        """Write the cache with what the build added, atomically."""
        replace_file(self.path, memoryview(self.config.get_timing_cache().serialize()))
