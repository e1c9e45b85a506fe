from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

from tt_edge.dtypes import DType

FLOATS = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)


@pytest.fixture
def rng() -> np.random.Generator:
    """Fresh random numbers; a failing test prints the seed, which TT_EDGE_TEST_SEED sets."""
    seed = int(os.environ.get("TT_EDGE_TEST_SEED", np.random.SeedSequence().entropy % 2**32))
    print(f"TT_EDGE_TEST_SEED={seed}")
    return np.random.default_rng(seed)


@pytest.fixture(params=FLOATS, ids=lambda dtype: dtype.value)
def dtype(request: pytest.FixtureRequest) -> DType:
    return request.param


@pytest.fixture
def normal(rng: np.random.Generator, dtype: DType) -> Callable[..., np.ndarray]:
    """``normal(*shape)``: standard normal values of the test's ``dtype``."""
    return lambda *shape: rng.standard_normal(shape, np.float32).astype(dtype.numpy)
