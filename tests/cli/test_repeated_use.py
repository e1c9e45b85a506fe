"""Loading, running and closing again and again leaves nothing behind in the process."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from pathlib import Path

import pytest

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.config import Precision
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime import LLM
from tt_edge.runtime.async_llm import AsyncLLM


def held(bundle: Path) -> tuple[int, int, int]:
    """Open files, threads, and mappings of the bundle's files."""
    gc.collect()
    mapped = sum(str(bundle) in line for line in Path("/proc/self/maps").read_text().splitlines())
    return len(os.listdir("/proc/self/fd")), threading.active_count(), mapped


def answer(bundle: Path) -> weakref.ref[LLM]:
    with LLM.load(bundle, runtime="reference") as llm:
        assert llm.generate(["the light"], GenerationConfig(max_new_tokens=3))[0].new_token_ids
    return weakref.ref(llm)


def serve(bundle: Path) -> weakref.ref[LLM]:
    with AsyncLLM(LLM.load(bundle, runtime="reference")) as served:
        assert served.is_alive
    return weakref.ref(served.llm)


@pytest.mark.parametrize("use", [answer, serve])
def test_sessions_that_are_closed(bundle, use):
    use(bundle)  # imports, and what libraries keep once
    before = held(bundle)
    left = [use(bundle) for _ in range(5)]
    assert held(bundle) == before
    assert before[2] == 0
    assert not any(reference() is not None for reference in left)


def test_checkpoints_that_are_loaded(checkpoint):
    weights = []
    for _ in range(4):
        model = Checkpoint.open(checkpoint).load(Precision.FP32)
        weights.extend(weakref.ref(parameter) for parameter in model.parameters())
        del model
    gc.collect()
    assert weights
    assert not any(reference() is not None for reference in weights)
