"""Running the same prompts with Hugging Face: the baseline of every comparison."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.parity.references.loading import clean_generation, load_reference
from tt_edge.config import Precision
from tt_edge.runtime.benchmark.local import observe
from tt_edge.runtime.benchmark.records import Measured, RequestTimes
from tt_edge.runtime.benchmark.workload import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PyTorchBaseline:
    """A checkpoint in PyTorch as transformers loads it, on the GPU where there is one."""

    def __init__(self, source: Checkpoint | str | os.PathLike[str], precision: Precision) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.checkpoint = Checkpoint.open(source)
        self.model: PreTrainedModel = load_reference(self.checkpoint, precision).to(self.device)  # type: ignore[arg-type]

    @property
    def word(self) -> str:
        """A description of what ran, for reports."""
        where = torch.cuda.get_device_name() if self.device == "cuda" else "the CPU"
        return f"PyTorch {torch.__version__.partition('+')[0]} on {where}"

    def generate(self, input_ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """The new tokens of greedy ``generate()``, with the checkpoint's own end-of-sequence ids and none of its other
        generation settings."""
        ids = torch.tensor([list(input_ids)], device=self.device)
        ends = self.model.generation_config.eos_token_id
        with clean_generation(self.model):
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, eos_token_id=ends
            )
        new: list[int] = out[0, ids.shape[1] :].tolist()
        return new

    def measure(self, prompts: np.ndarray, plan: Plan) -> Measured:
        """Like ``tt_edge.runtime.benchmark.local.measure_batch``: prefill and decode with transformers' dynamic cache."""
        ids = torch.from_numpy(prompts).to(self.device)
        return observe(self.word, lambda: self._timed(ids, plan.osl), plan.warmup, plan.runs)

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @torch.no_grad()
    def _timed(self, ids: torch.Tensor, new_tokens: int) -> list[RequestTimes]:
        start = self._now()
        out = self.model(ids, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        times = [self._now()]
        for _ in range(new_tokens - 1):
            out = self.model(token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
            times.append(self._now())
        one = RequestTimes(start, tuple(times), ids.shape[1], new_tokens, computed_from=start, reused_tokens=0)
        return [one] * len(ids)
