"""What the releases have, read off their real bindings."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bindings.releases import RELEASES, RUNTIMES
from tt_edge.tensorrt_features import FEATURES, features_of_release


def _run(release, code: str) -> str:
    command = [sys.executable, "-c", f"import {release.module} as trt\n{code}"]
    result = subprocess.run(command, env=release.environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_has_the_features_that_the_table_says(name):
    found = _run(
        RELEASES[name],
        "from tt_edge.tensorrt_features import features_of\n"
        "print(*(feature.name for feature in features_of(trt)), hasattr(trt.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED'))",
    )
    assert set(found.split()) == {feature.name for feature in features_of_release(RELEASES[name].version)} | {"True"}


def test_tensorrt_rtx_has_all(tensorrt):
    assert all(feature.is_in(tensorrt.module) for feature in FEATURES)


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_small_runtimes_run_and_do_not_build(name):
    found = _run(RUNTIMES[name], "print(hasattr(trt, 'Builder'), hasattr(trt, 'Runtime'), hasattr(trt, 'Refitter'))")
    assert found.split()[:2] == ["False", "True"]
