"""A tiny checkpoint compiled, beside PyTorch with the checkpoint's own processor, and their answers compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.models.any_vlm import write_any
from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime import LLM

NEW = 6
GREEDY = GenerationConfig(max_new_tokens=NEW, ignore_eos=True)


@contextmanager
def compiled(name: str, folder: Path, limits: CompileConfig) -> Iterator[tuple[LLM, PyTorchVLM, Path]]:
    """The compiled model, the one in PyTorch, and the folder of ``out.ttedge`` and ``checkpoint``."""
    write_any(name, folder / "checkpoint")
    compile_checkpoint(str(folder / "checkpoint"), folder / "out.ttedge", limits, EngineTarget())
    with LLM.load(folder / "out.ttedge", "reference") as llm:
        yield llm, PyTorchVLM(folder / "checkpoint", Precision.FP32), folder


def assert_equal_answers(llm: LLM, theirs: PyTorchVLM, asked: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """Prompt tokens and greedy tokens, of prompts with their images that are computed in one batch."""
    completions = llm.generate([prompt for prompt, _ in asked], GREEDY, images=[given for _, given in asked])
    for (prompt, given), completion in zip(asked, completions, strict=True):
        inputs = theirs.inputs(llm, prompt, given)
        assert list(completion.input_ids) == inputs["input_ids"][0].tolist()
        assert list(completion.new_token_ids) == theirs.continue_greedily(inputs, NEW, eos_token_id=None)
