"""A Triton model repository of a bundle: one model of the Python backend."""

from __future__ import annotations

import re
from pathlib import Path

from tt_edge.atomic import replace_file
from tt_edge.bundle import Bundle
from tt_edge.bundle.manifest import ENCODER
from tt_edge.contract import PAGE_PIXELS, SOURCE_IDS
from tt_edge.errors import InvalidInputError

#: Inputs and output have the names of Triton's vLLM backend, so that its clients and the generate endpoint work.
_CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
input [
  {{ name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "sampling_parameters" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "exclude_input_in_output" data_type: TYPE_BOOL dims: [ 1 ] optional: true }}
]
output [
  {{ name: "text_output" data_type: TYPE_STRING dims: [ -1 ] }}
]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
parameters {{ key: "bundle" value: {{ string_value: "{bundle}" }} }}
parameters {{ key: "runtime" value: {{ string_value: "{runtime}" }} }}
parameters {{ key: "max_waiting" value: {{ string_value: "{max_waiting}" }} }}
"""

_MODEL = '''"""Made by `tt-edge triton`."""

from tt_edge.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def check_bundle(path: Path) -> None:
    """Raise ``InvalidInputError`` for a bundle whose requests Triton could not take: its model's only input is a text."""
    manifest = Bundle.open(path).manifest
    inputs = {spec.name for spec in manifest.part(ENCODER).inputs} if manifest.takes_source else {SOURCE_IDS}
    if SOURCE_IDS not in inputs or PAGE_PIXELS in inputs:
        raise InvalidInputError(
            f"{path} is of an encoder-decoder of speech or pages, and the Triton model takes only text; serve it with "
            f"tt-edge serve {path}"
        )


def write_repository(bundle: Path, folder: Path, *, name: str, runtime: str = "auto", max_waiting: int = 64) -> Path:
    """Write the model ``name`` into the repository ``folder``; returns the model's folder.

    The bundle stays where it is; the model refers to it by its absolute path. Raises ``InvalidInputError`` for a name that
    Triton could take for a path.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise InvalidInputError(f"model name {name!r} is not of letters, digits, '.', '_' and '-'; give another --name")
    model = folder / name
    (model / "1").mkdir(parents=True, exist_ok=True)
    values = {"name": name, "bundle": bundle.resolve(), "runtime": runtime, "max_waiting": max_waiting}
    config = _CONFIG.format(**{key: _quoted(str(value)) for key, value in values.items()})
    replace_file(model / "1" / "model.py", _MODEL.encode())
    replace_file(model / "config.pbtxt", config.encode())
    return model


def _quoted(text: str) -> str:
    """For a string of protobuf's text format."""
    return "".join(c if c.isalnum() or c in " /._-+=@%,:" else "".join(f"\\{b:03o}" for b in c.encode()) for c in text)
