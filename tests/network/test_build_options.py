"""The options of a build. TensorRT-RTX's bindings have all of the calls, and replace those of standard TensorRT here."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest

from tests.network.test_build import captured, contract
from tt_edge import cuda
from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.network import build
from tt_edge.network.build import build_engine
from tt_edge.network.build_options import BuildOptions, TimingCache
from tt_edge.network.rebuild import rebuild
from tt_edge.tensorrt_api import Flavour

__all__ = ["captured"]


@pytest.fixture
def standard(tensorrt, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt.module)
    return replace(tensorrt, flavour=Flavour.STANDARD)


@pytest.fixture
def config(standard, captured):
    """A builder's configuration, and what keeps it alive."""
    rebuilt = rebuild(standard, captured[0])

    def configured(options):
        configured.rebuilt = rebuilt
        return build.configure(standard, rebuilt, contract().profiles(), [], options)

    return configured


def test_options_become_flags_and_limits(standard, config):
    trt = standard.module
    plain = config(BuildOptions())
    made = config(BuildOptions(workspace_bytes=1 << 20, version_compatible=True, strip_weights=True))
    flags = ["VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT_IDENTICAL"]
    assert [made.get_flag(getattr(trt.BuilderFlag, flag)) for flag in flags] == [True] * 3
    assert [plain.get_flag(getattr(trt.BuilderFlag, flag)) for flag in flags] == [False] * 3
    assert made.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 20


def test_weights_get_their_names(standard, captured):
    rebuilt = rebuild(standard, captured[0])
    assert rebuilt.given.keys() == captured[0].weights.keys()
    rebuilt.name_weights()  # TensorRT accepts each


@pytest.mark.filterwarnings("ignore")
def test_timings_are_read_and_written(standard, config, tmp_path):
    file = tmp_path / "timings"
    for _ in range(2):  # a new file, then a file that is there
        TimingCache(standard, config(BuildOptions()), file).write()
        assert file.stat().st_size > 0
    assert list(tmp_path.iterdir()) == [file]


class Refusing:
    """A configuration that knows no cache, or not this one."""

    def __init__(self, cache) -> None:
        self.cache = cache

    def create_timing_cache(self, content):
        return self.cache

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        return False


@pytest.mark.parametrize("cache", [None, object()])
def test_a_foreign_timing_cache_is_explained(standard, tmp_path, cache):
    (tmp_path / "timings").write_bytes(b"of another GPU")
    with pytest.raises(EngineError, match=r"timings is no timing cache of this GPU and tensorrt .*; delete it or give"):
        TimingCache(standard, Refusing(cache), tmp_path / "timings")
    assert (tmp_path / "timings").read_bytes() == b"of another GPU"


def test_a_timing_cache_that_cannot_be_read(standard, tmp_path):
    with pytest.raises(InvalidInputError, match=r"cannot be read \(Is a directory\)"):
        TimingCache(standard, None, tmp_path)


def test_what_rtx_without_a_gpu_has_no_use_for(tensorrt, monkeypatch, tmp_path):
    monkeypatch.setattr(cuda, "is_available", lambda: False)
    asked = BuildOptions(timing_cache=tmp_path / "timings", strip_weights=True, workspace_bytes=1 << 20)
    fitting, notes = asked.fitting(tensorrt)
    assert fitting == BuildOptions(workspace_bytes=1 << 20)
    assert len(notes) == 2
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    assert asked.fitting(tensorrt)[0] == replace(asked, timing_cache=None)


def test_standard_tensorrt_uses_all(standard, tmp_path):
    asked = BuildOptions(1 << 20, tmp_path / "timings", version_compatible=True, strip_weights=True)
    monkey = replace(standard, module=_WithoutTargets(standard.module))
    assert asked.fitting(monkey) == (asked, [])


class _WithoutTargets:
    """The bindings of standard TensorRT, which has no ahead-of-time targets."""

    def __init__(self, module) -> None:
        self.Builder, self.IBuilderConfig = module.Builder, module.IBuilderConfig


def test_rtx_refuses_version_compatible_engines(tensorrt, captured):
    with pytest.raises(EngineError, match=r"builds no version-compatible engines .* or build with standard TensorRT"):
        build_engine(
            tensorrt,
            captured[0],
            contract().profiles(),
            "sm89",
            io.BytesIO(),
            options=BuildOptions(version_compatible=True),
        )


def test_a_workspace_of_nothing():
    with pytest.raises(InvalidInputError, match="a workspace of 0 bytes is too small"):
        BuildOptions(workspace_bytes=0)
