"""The calls into CUDA, held against the oldest of cuda-bindings that PyPI has for CUDA 12; the newest is the installed one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bindings.releases import kept

ROOT = Path(__file__).parents[2]
CHECK = """
import inspect, cuda.bindings
from cuda.bindings import runtime
from tests.runtime.engine.fake_tensorrt import FakeCuda
from tt_edge import cuda as calls
from tt_edge.errors import EngineError
checked = 0
for name, fake in vars(FakeCuda).items():
    if not name.startswith("cuda"):
        continue
    real = getattr(runtime, name)
    if callable(fake):
        inspect.signature(real).bind(*list(inspect.signature(fake).parameters)[1:])
    else:
        assert all(hasattr(real, member) for member in getattr(fake, "__dict__", ()))
    checked += 1
try:
    calls.compute_capability()
except EngineError:
    pass  # no driver
print(cuda.bindings.__version__, checked)
"""


@pytest.mark.parametrize("version", ["12.8.0", "12.9.10"])
def test_every_call_fits(version):
    """12.8.0 is the oldest for CUDA 12 on PyPI, and what the package asks for."""
    environment = os.environ | {"PYTHONPATH": f"{kept('cuda-bindings', version)}{os.pathsep}{ROOT}"}
    ran = subprocess.run([sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found, checked = ran.stdout.split()
    assert found == version
    assert int(checked) >= 25
