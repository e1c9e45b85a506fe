"""Where a compiled model comes from: a checkpoint, or a function that makes it in memory."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.config import Precision

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tt_edge.compile.quantize.data import CalibrationData
    from tt_edge.compile.quantize.stage import Calibration


class Origin(ABC):
    """A model to compile, and the files that go into the bundle with it. ``source`` is its name in the manifest."""

    def __init__(self, source: str) -> None:
        self.source = source

    @property
    def name(self) -> str:
        """The model's name: the last part of ``source``."""
        return os.path.basename(self.source.rstrip("/")) or self.source or "model"

    @property
    def quantization(self) -> str:
        """How the checkpoint is quantized, such as ``awq (4 bits, groups of 128)``; empty if it is not."""
        return ""

    @abstractmethod
    def load(self, precision: Precision) -> PreTrainedModel:
        """The model, in evaluation mode, on the CPU."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """Files for the runtime: of the tokenizer, the chat template and the image processor."""

    @abstractmethod
    def calibration(self) -> Calibration:
        """Its calibration data."""


class CheckpointOrigin(Origin):
    """A checkpoint folder or hub id. ``tokenizer`` is a checkpoint to take the tokenizer from (default: the same)."""

    def __init__(
        self, source: str, *, tokenizer: str | None = None, calibration: CalibrationData | None = None
    ) -> None:
        super().__init__(source)
        self._tokenizer_source, self._data = tokenizer, calibration

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, opened on first access."""
        return Checkpoint.open(self.source)

    @cached_property
    def _tokenizer(self) -> Checkpoint:
        given = self._tokenizer_source
        return self.checkpoint if given is None else Checkpoint.open_tokenizer(given)

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def quantization(self) -> str:
        found = self.checkpoint.quantization
        return "" if found is None else str(found)

    def load(self, precision: Precision) -> PreTrainedModel:
        from tt_edge.compile.checkpoint.load import load_model

        return load_model(self.checkpoint, precision)

    def files(self) -> dict[str, bytes]:
        if "vision_config" in self.checkpoint.settings:
            _ = self.checkpoint.config  # sizes are checked before transformers computes with them, as for the tokenizer
        # A processor's chat template has precedence over its tokenizer's.
        return dict(self._tokenizer.tokenizer_files()) | dict(self.checkpoint.processor_files())

    def calibration(self) -> Calibration:
        from tt_edge.compile.quantize.stage import CheckpointCalibration

        return CheckpointCalibration(self.checkpoint, self._tokenizer, self._data)


class MemoryOrigin(Origin):
    """A model built in memory by ``make``, without a tokenizer; ``batches`` are token ids ``[B, S]`` to calibrate on."""

    def __init__(
        self, make: Callable[[], PreTrainedModel], name: str = "model", batches: Sequence[torch.Tensor] = ()
    ) -> None:
        super().__init__(name)
        self._make, self._batches = make, batches

    def load(self, precision: Precision) -> PreTrainedModel:
        return self._make()

    def files(self) -> dict[str, bytes]:
        return {}

    def calibration(self) -> Calibration:
        from tt_edge.compile.quantize.stage import GivenBatches

        return GivenBatches(self._batches)
