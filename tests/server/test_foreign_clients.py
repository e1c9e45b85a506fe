"""LiteLLM and langchain-openai get the Python API's answers, and recognise a prompt that is too long.

They need 400 MB of packages, so they have a virtual environment of their own: one that the test makes, or the one whose Python
``TT_EDGE_CLIENTS_PYTHON`` names.
"""

from __future__ import annotations

import json
import os
import subprocess
import venv
from pathlib import Path

import pytest

from tests.runtime.llms import make_llm
from tests.server.conftest import MODEL, serving, serving_llm
from tt_edge.generation_config import GenerationConfig

PACKAGES = ["litellm>=1.80,<2", "langchain-openai>=1,<2"]
SCRIPT = Path(__file__).with_name("foreign_clients.py")
SHORT, LONG = ([{"role": "user", "content": text}] for text in ("Go?", "light " * 99))


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    if given := os.environ.get("TT_EDGE_CLIENTS_PYTHON"):
        return given
    folder = tmp_path_factory.mktemp("clients")
    venv.create(folder, with_pip=True)
    subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile", *PACKAGES],
        check=True,
        timeout=900,
    )
    return folder / "bin" / "python"


@pytest.mark.heavy
def test_litellm_and_langchain(folder, python):
    large = make_llm(folder, name=MODEL, capacity=400)
    with make_llm(folder) as llm, serving(folder) as small, serving_llm(large) as other:
        chat, text = llm.chat(SHORT, GenerationConfig(5)), llm.generate(["Go"], GenerationConfig(5))[0].text
        with make_llm(folder, capacity=400) as long:
            fallback = long.chat(LONG, GenerationConfig(5)).text
        done = subprocess.run([python, SCRIPT, small.url, other.url], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("litellm", "langchain"):
        assert found[name] == [chat.text, len(chat.new_token_ids)]
        assert found[f"{name} stream"] == chat.text
        assert found[f"{name} text"] == text
    assert "ContextWindowExceededError" in found["litellm too long"]
    assert "ContextOverflowError" in found["langchain too long"]
    assert found["litellm falls back"] == fallback
