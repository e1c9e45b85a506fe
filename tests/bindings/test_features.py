"""What the releases have, read off their real bindings."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest

from tests.bindings.releases import BEFORE, RELEASES, RUNTIMES
from tt_edge.platforms import PLATFORMS
from tt_edge.tensorrt_api import Flavour
from tt_edge.tensorrt_features import FEATURES, features_of_release, release_of


def _run(release, code: str) -> str:
    command = [sys.executable, "-c", f"import {release.module} as trt\n{code}"]
    result = subprocess.run(command, env=release.environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


LOOKED_AT = RELEASES | BEFORE


@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_release_has_the_features_that_the_table_says(name):
    found = _run(
        LOOKED_AT[name],
        "from tt_edge.tensorrt_features import features_of\n"
        "print(*(feature.name for feature in features_of(trt)), hasattr(trt.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED'))",
    )
    assert set(found.split()) == {feature.name for feature in features_of_release(LOOKED_AT[name].version)} | {"True"}


def test_each_feature_is_new_in_the_release_that_the_table_says():
    """Of each, the bindings of its first release and of one before are looked at (no release is between them)."""
    releases = sorted(release_of(name) for name in LOOKED_AT)
    before = {first: earlier for earlier, first in pairwise(releases)}
    for feature in FEATURES:
        assert feature.since in before, feature
        between = (feature.since[0], feature.since[1] - 1) if feature.since != (11, 0) else (10, 16)
        assert before[feature.since] == between, feature


def test_every_platform_has_bindings_that_are_checked():
    named = {release_of(release) for platform in PLATFORMS.values() for release in platform.releases
             if platform.flavour is Flavour.STANDARD}  # fmt: skip
    assert named <= {release_of(name) for name in RELEASES}


def test_tensorrt_rtx_has_all(tensorrt):
    assert all(feature.is_in(tensorrt.module) for feature in FEATURES)


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_small_runtimes_run_and_do_not_build(name):
    found = _run(RUNTIMES[name], "print(hasattr(trt, 'Builder'), hasattr(trt, 'Runtime'), hasattr(trt, 'Refitter'))")
    assert found.split()[:2] == ["False", "True"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_small_runtimes_take_the_calls_of_loading_and_of_steps(name):
    """An engine is loaded and run with every call held against the runtime's own classes and signatures."""
    release = RUNTIMES[name]
    found = _run(
        release,
        "from tests.bindings.loading import load_and_generate\n"
        "from tests.bindings.replay_case import Case\n"
        "from tests.models.decoders import compiled\n"
        "from tt_edge.tensorrt_api import Flavour\n"
        "network, contract = compiled()\n"
        "calls = []\n"
        "prompts = [[5, 9, 3], [7, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [11, 12]]\n"
        f"package = trt, Flavour('{release.module}')\n"
        "case = Case('decoder', network, contract)\n"
        "print(load_and_generate(package, case, network, contract, calls, stripped=False, prompts=prompts), len(calls))",
    )
    tokens, calls = map(int, found.split())
    assert tokens == 18
    assert calls >= 60
