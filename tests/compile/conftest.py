from __future__ import annotations

import gc

import pytest

from tests.compile.compiled_once import networks_folder  # noqa: F401 (a fixture)


@pytest.fixture(scope="module", autouse=True)
def libraries_are_not_collected():
    """Every compile collects garbage, which takes a second with all of transformers' and torch's objects."""
    gc.collect()
    gc.freeze()
