"""The other examples, as scripts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def script(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("contract", ["0.4", "0.9.1", "0.10"])
def test_attention_plugin(contract):
    out = script("attention_plugin_example.py", "--contract", contract)
    assert out.count("PyTorch and the evaluated network differ by") == 2
    assert "The plugin itself was not executed" in out


def test_end_to_end():
    out = script("end_to_end_llm_generation_example.py")
    assert "The road is clear| and the light is green, so the car drives on." in out
    assert "(evaluated by the reference session)" in out


@pytest.mark.heavy
def test_demo(tmp_path):
    out = script("demo.py", "--keep", str(tmp_path))
    assert "Hugging Face generate() and the compiled network match" in out
    assert "What should the car do? → Stop, because the light is red." in out
    assert "How many vehicles are there? → Three." in out
    assert "What is 17 plus 25? → 42" in out
    assert "evaluated     network: matches Hugging Face generate()" in out
    assert (tmp_path / "driving.ttedge" / "manifest.json").is_file()
