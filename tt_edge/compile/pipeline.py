"""Compiling in one call: a checkpoint, or a model in memory. ``tt_edge.compile.job`` has the stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tt_edge.compile.job import CompileJob
from tt_edge.compile.origin import CheckpointOrigin, MemoryOrigin
from tt_edge.compile.report import CompileReport
from tt_edge.config import CompileConfig, EngineTarget

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tt_edge.bundle.engine_cache import EngineCache
    from tt_edge.compile.quantize.data import CalibrationData
    from tt_edge.runtime.multimodal.sources import ImageSource


def compile_checkpoint(
    source: str,
    output: Path,
    config: CompileConfig,
    target: EngineTarget,
    *,
    fit_length: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    plugin_path: str | None = None,
    dump_graphs: Path | None = None,
    tokenizer: str | None = None,
    calibration: CalibrationData | None = None,
    engine_cache: EngineCache | None = None,
    images: Sequence[ImageSource] = (),
) -> CompileReport:
    """Compile a checkpoint folder or hub id to a bundle at ``output``.

    ``tokenizer`` is a checkpoint to take the tokenizer from, if not ``source``; ``calibration`` is the data to calibrate the
    recipe of ``config`` on (default: the built-in text); the other arguments are those of ``CompileJob``.
    """
    origin = CheckpointOrigin(source, tokenizer=tokenizer, calibration=calibration)
    return CompileJob(
        origin,
        output,
        config,
        target,
        fit_length=fit_length,
        overwrite=overwrite,
        progress=progress,
        plugin_path=plugin_path,
        dump_graphs=dump_graphs,
        engine_cache=engine_cache,
        images=images,
    ).run()


def compile_model(
    model: Callable[[], PreTrainedModel],
    output: Path,
    config: CompileConfig,
    target: EngineTarget,
    *,
    name: str = "model",
    overwrite: bool = False,
    progress: bool = False,
    batches: Sequence[torch.Tensor] = (),
) -> CompileReport:
    """Compile a model that the function ``model`` builds in memory, without a tokenizer.

    The recipe of ``config`` is calibrated on ``batches`` of token ids ``[B, S]``.
    """
    origin = MemoryOrigin(model, name, batches)
    return CompileJob(origin, output, config, target, overwrite=overwrite, progress=progress).run()
