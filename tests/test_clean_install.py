"""The package without extras, in a virtual environment of its own: no PyTorch there, the same tokens as Hugging Face."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.tiny_checkpoint import make_checkpoint
from tt_edge.cli import main

ROOT = Path(__file__).parent.parent
PROMPTS = ["The light ahead is red", "Die Ampel"]
BLOCKER = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "torch_tensorrt"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
"""


@pytest.mark.heavy
def test_a_base_install_generates_the_tokens_of_hugging_face(tmp_path):
    make_checkpoint(tmp_path / "tiny", steps=60)
    bundle = tmp_path / "tiny.ttedge"
    assert main(["compile", str(tmp_path / "tiny"), "-o", str(bundle), "--precision", "fp32", "--max-batch", "2"]) == 0

    folder = tmp_path / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    source = tmp_path / "source"  # a copy, so that nothing of an earlier build gets in, nor of this one into the tree
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__"))
    install = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--constraint",
        source / "constraints.txt",
        source,
    ]
    subprocess.run(install, check=True, timeout=600)
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(BLOCKER)

    command = [folder / "bin" / "tt-edge", "run", bundle, "--max-new-tokens", "24", "--json"]
    command += [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "blocked")}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path
    )
    results = json.loads(done.stdout)

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny")
    for prompt, result in zip(PROMPTS, results, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        assert result["input_ids"] == ids[0].tolist()
        assert result["new_token_ids"] == out[0, ids.shape[1] :].tolist()

    listed = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert not {"torch", "transformers", "tensorrt"} & {line.split()[0] for line in listed.splitlines()}
    blocked = subprocess.run(
        [python, "-c", "import torch"], capture_output=True, text=True, env=environment, check=False
    )
    assert "torch is blocked" in blocked.stderr
