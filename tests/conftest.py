from __future__ import annotations

import os

import pytest

# Tests run in one process a core, and their matrices are tiny: a second thread only waits. Before NumPy and torch are loaded.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

from tt_edge import tensorrt_api  # noqa: E402


@pytest.fixture(scope="session")
def tensorrt():
    """The installed TensorRT, which must have a builder."""
    loaded = tensorrt_api.load()
    assert loaded.can_build
    return loaded
