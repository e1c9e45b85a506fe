from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.runtime.decoders import compiled
from tt_edge.config import CompileConfig
from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.runtime import choose
from tt_edge.runtime.choose import Machine, open_session
from tt_edge.runtime.reference_session import ReferenceSession

HERE = Machine("linux_x86_64", "sm89", {"tensorrt_rtx": "1.6.1.120"})


def engine(**changes):
    record = {
        "file": "engines/sm89.engine",
        "flavour": "tensorrt_rtx",
        "tensorrt_version": "1.6.1.120",
        "platform": "linux_x86_64",
        "compute_capability": "sm89",
    }
    return SimpleNamespace(**{**record, **changes})


def bundle(*engines, backend="native"):
    network, contract = compiled()
    manifest = SimpleNamespace(contract=contract, engines=engines, config=CompileConfig(backend))
    return SimpleNamespace(manifest=manifest, network=lambda: network, path_of=lambda name: name)


UNFIT = [
    {"compute_capability": "sm120"},
    {"platform": "linux_aarch64"},
    {"tensorrt_version": "1.7.1.10"},
    {"flavour": "tensorrt"},
]


@pytest.mark.parametrize("change", UNFIT)
def test_an_engine_for_another_machine_is_not_run(change):
    other = bundle(engine(**change))
    assert isinstance(open_session(other, "auto", HERE), ReferenceSession)
    with pytest.raises(EngineError, match="no engine of the bundle fits") as caught:
        open_session(other, "tensorrt", HERE)
    message = str(caught.value)
    assert "\n" not in message
    assert "linux_x86_64, sm89, tensorrt_rtx 1.6.1.120" in message
    assert next(iter(change.values())) in message
    assert "--runtime reference" in message


def test_a_machine_without_gpu_or_tensorrt_says_so():
    with pytest.raises(EngineError, match=r"no usable NVIDIA GPU, no TensorRT.*it has: none"):
        open_session(bundle(), "tensorrt", Machine("linux_x86_64", None, {}))


@pytest.mark.parametrize("runtime", ["auto", "tensorrt"])
def test_the_engine_that_fits_is_run(monkeypatch, runtime):
    opened = []
    monkeypatch.setattr(choose, "load", lambda flavour: flavour)
    monkeypatch.setattr(
        "tt_edge.runtime.tensorrt_session.TensorRTSession", lambda *arguments: opened.append(arguments) or "session"
    )
    both = bundle(engine(compute_capability="sm120", file="other"), engine())
    assert open_session(both, runtime, HERE) == "session"
    assert [(file, str(flavour)) for file, _, flavour in opened] == [("engines/sm89.engine", "tensorrt_rtx")]


@pytest.mark.parametrize(("backend", "loaded"), [("native", 0), ("plugin", 1)])
def test_an_engine_with_plugins_gets_their_library_first(monkeypatch, backend, loaded):
    calls = []
    monkeypatch.setattr(choose, "load", lambda flavour: SimpleNamespace(module="bindings"))
    monkeypatch.setattr(choose, "load_library", lambda module: calls.append(module))
    monkeypatch.setattr(
        "tt_edge.runtime.tensorrt_session.TensorRTSession", lambda *arguments: calls.append("session") or "session"
    )
    assert open_session(bundle(engine(), backend=backend), "auto", HERE) == "session"
    assert calls == ["bindings"] * loaded + ["session"]


def test_reference_is_used_when_asked_for():
    assert isinstance(open_session(bundle(engine()), "reference", HERE), ReferenceSession)


def test_unknown_runtime():
    with pytest.raises(InvalidInputError, match="'cuda' is unknown; choose one of auto, tensorrt, reference"):
        open_session(bundle(), "cuda", HERE)


def test_this_machine_can_be_described():
    assert Machine.detect().platform in str(Machine.detect())
