"""A target has no torch: what runs there must not import it, nor load what a task does not need."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import tt_edge
from examples.driving_qa.evaluate import CHECKPOINT

HOST_ONLY = ("torch", "transformers", "torch_tensorrt", "modelopt", "accelerate")
TARGET_PACKAGES = (
    "tt_edge.network",
    "tt_edge.bundle",
    "tt_edge.runtime",
    "tt_edge.server",
    "tt_edge.doctor",
    "tt_edge.report",
    "tt_edge.evaluation",
    "tt_edge.cli",
)


def target_modules() -> list[str]:
    found = [module.name for module in pkgutil.walk_packages(tt_edge.__path__, "tt_edge.", onerror=lambda name: None)]
    foreign = ("__main__", "tt_edge.evaluation.lm_eval")  # the second is for a harness that may not be installed
    return [name for name in found if name.startswith(TARGET_PACKAGES) and not name.endswith(foreign)]


def loaded_after(statements: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after ``statements``."""
    code = f"{statements}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_target_modules_import_where_torch_is_blocked():
    modules = target_modules()
    assert "tt_edge.runtime.engine.tensorrt_session" in modules
    block = f"import sys\nfor name in {HOST_ONLY!r}: sys.modules[name] = None\n"  # importing it raises ImportError
    loaded_after(block + "\n".join(f"import {name}" for name in modules))


@pytest.mark.parametrize("module", ["tt_edge.runtime", "tt_edge.runtime.engine.tensorrt_session"])
def test_the_runtime_loads_nothing_heavy(module):
    heavy = {
        "tokenizers",
        "jinja2",
        "uvicorn",
        "pydantic",
        "asyncio",
        "tensorrt",
        "tensorrt_rtx",
        "cuda",
        "cuda.bindings",
        "safetensors",
        *HOST_ONLY,
    }
    assert loaded_after(f"import {module}") & heavy == set()


def test_language_models_need_no_pillow(tmp_path):
    """Pillow is only in the extra vlm: compiling, quantizing, verifying and evaluating language models work without it."""
    bundle, questions = str(tmp_path / "a.ttedge"), tmp_path / "a.jsonl"
    questions.write_text('{"prompt": "Is it red?", "answer": "Yes."}\n')
    commands = [
        ["compile", str(CHECKPOINT), "-o", bundle, "--quant", "fp8", "--calib-samples", "4"],
        ["verify", bundle, "--model", str(CHECKPOINT), "--new-tokens", "2"],
        ["eval", bundle, "--data", str(questions), "--model", str(CHECKPOINT)],
    ]
    block = "import sys\nfor name in ('PIL', 'torchvision', 'qwen_vl_utils'): sys.modules[name] = None\n"
    loaded = loaded_after(
        f"{block}from tt_edge.cli import main\nfor command in {commands!r}: assert main(command) == 0"
    )
    assert "modelopt" in loaded
    assert {name for name in loaded if name.startswith("PIL.")} == set()
