from __future__ import annotations

import pytest

from tt_edge import tensorrt_api


@pytest.fixture(scope="session")
def tensorrt():
    """The installed TensorRT, which must have a builder."""
    loaded = tensorrt_api.load()
    assert loaded.can_build
    return loaded
