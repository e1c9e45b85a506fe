"""Networks that several tests use, in whatever process: equal models with equal settings are compiled once in a test run."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tt_edge.compile.part import CompiledPart, PartCompiler

#: Names the folder of this test run, which all of its worker processes share.
FOLDER = "TEST_NETWORKS_FOLDER"


@pytest.fixture(scope="session", autouse=True)
def networks_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where networks are kept while the tests run; a conftest.py imports it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "networks"
    folder.mkdir(exist_ok=True)
    os.environ[FOLDER] = str(folder)
    yield
    os.environ.pop(FOLDER, None)


def compiled_once(compiler: PartCompiler) -> CompiledPart:
    """The compiled part, a fresh copy of what is kept. Tests that change how tt-edge compiles call ``compiler.compile()``."""
    if FOLDER not in os.environ:
        return compiler.compile()
    file = Path(os.environ[FOLDER], _key(compiler))
    with file.with_suffix(".lock").open("w") as lock:  # another process may be at it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.is_file():
            file.write_bytes(pickle.dumps(compiler.compile(), protocol=pickle.HIGHEST_PROTOCOL))
    return pickle.loads(file.read_bytes())


def _key(compiler: PartCompiler) -> str:
    """A hash of everything that is compiled: the model and the settings."""
    digest = model_digest(compiler.model)
    for text in (
        compiler.name, repr(compiler.config), repr(compiler.kv_scales), compiler.network_name,
        repr(getattr(compiler, "geometry", None)),
    ):  # fmt: skip
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def model_digest(model: PreTrainedModel) -> hashlib._Hash:
    """A hash of a model's classes, configuration and weights, to which more can be added."""
    digest = hashlib.sha256()
    for text in (type(model).__qualname__, repr(model), model.config.to_json_string(False), repr(model.training)):
        digest.update(text.encode() + b"\0")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest
