from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.models.decoders import compiled
from tests.models.toy_engine import vision_contract
from tt_edge.bundle import EngineRecord, Manifest, ModelIdentity
from tt_edge.config import CompileConfig
from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.runtime.engine import open_engine
from tt_edge.runtime.engine.choose import Machine, open_part
from tt_edge.runtime.engine.reference_session import ReferenceSession

HERE = Machine("linux_x86_64", "sm89", {"tensorrt_rtx": "1.6.1.120"})


ENGINE = EngineRecord("engines/sm89.engine", "tensorrt_rtx", "1.6.1.120", "linux_x86_64", "sm89", 600, 1.5)


def engine(**changes):
    return replace(ENGINE, **changes)


def bundle(*engines, **config):
    network, contract = compiled()
    model = ModelIdentity("Toy", "toy", "toy", "toy", 1, "")
    manifest = Manifest(model, CompileConfig.of(**config), {"decoder": contract}, {}, engines)
    return SimpleNamespace(
        path="b.ttedge",
        has_network=True,
        manifest=manifest,
        network=lambda part: network,
        weights=lambda part: network.weights,
        file=lambda name: name,
    )


UNFIT = [
    {"compute_capability": "sm120"},
    {"platform": "linux_aarch64"},
    {"tensorrt_version": "1.7.1.10"},
    {"flavour": "tensorrt"},
]


@pytest.mark.parametrize("change", UNFIT)
def test_an_engine_for_another_machine_is_not_run(change):
    other = bundle(engine(**change))
    assert isinstance(open_part(other, "decoder", "auto", HERE), ReferenceSession)
    with pytest.raises(EngineError, match="no decoder engine of the bundle fits") as caught:
        open_part(other, "decoder", "tensorrt", HERE)
    message = str(caught.value)
    assert "\n" not in message
    assert "linux_x86_64, sm89, tensorrt_rtx 1.6.1.120" in message
    assert next(iter(change.values())) in message
    assert "--runtime reference" in message


def test_a_machine_without_gpu_or_tensorrt_says_so():
    with pytest.raises(EngineError, match=r"no usable NVIDIA GPU, no TensorRT.*it has: none"):
        open_part(bundle(), "decoder", "tensorrt", Machine("linux_x86_64", None, {}))


@pytest.mark.parametrize("runtime", ["auto", "tensorrt"])
def test_the_engine_that_fits_is_run(monkeypatch, runtime):
    opened = []
    monkeypatch.setattr(open_engine, "load", lambda flavour: flavour)
    monkeypatch.setattr(
        open_engine,
        "TensorRTSession",
        lambda *arguments, **_: opened.append(arguments) or "session",
    )
    both = bundle(engine(compute_capability="sm120", file="other"), engine())
    assert open_part(both, "decoder", runtime, HERE) == "session"
    assert [(file, str(flavour)) for file, _, flavour in opened] == [("engines/sm89.engine", "tensorrt_rtx")]


@pytest.mark.parametrize(
    ("settings", "loaded"),
    [
        ({"backend": "native"}, []),
        ({"backend": "plugin"}, [("AttentionPlugin", "")]),
        ({"backend": "plugin", "plugin_contract": "tt-edge"}, [("Attention", "tt_edge")]),
    ],
)
def test_an_engine_with_plugins_gets_their_library_first(monkeypatch, settings, loaded):
    calls = []
    monkeypatch.setattr(open_engine, "load", lambda flavour: SimpleNamespace(module="bindings"))
    monkeypatch.setattr(open_engine, "load_library", lambda module, path, *plugin: calls.append(plugin))
    monkeypatch.setattr(open_engine, "TensorRTSession", lambda *_, **__: calls.append("session") or "session")
    assert open_part(bundle(engine(), **settings), "decoder", "auto", HERE) == "session"
    assert calls == [*loaded, "session"]


@pytest.mark.parametrize(("attention", "loaded"), [("native", []), ("plugin", [("ViTAttentionPlugin", "")])])
def test_a_towers_engine_gets_its_plugins_library(monkeypatch, attention, loaded):
    calls = []
    monkeypatch.setattr(open_engine, "load", lambda flavour: SimpleNamespace(module="bindings"))
    monkeypatch.setattr(open_engine, "load_library", lambda module, path, *plugin: calls.append(plugin))
    monkeypatch.setattr(open_engine, "TensorRTFeedForward", lambda *_, **__: "session")
    given = bundle(engine(part="vision"), vision_attention=attention)
    given.manifest.parts["vision"] = vision_contract()
    assert open_part(given, "vision", "auto", HERE) == "session"
    assert calls == loaded


def test_reference_is_used_when_asked_for():
    assert isinstance(open_part(bundle(engine()), "decoder", "reference", HERE), ReferenceSession)


def test_unknown_runtime():
    with pytest.raises(InvalidInputError, match="'cuda' is unknown; choose one of auto, tensorrt, reference"):
        open_part(bundle(), "decoder", "cuda", HERE)


def test_this_machine_can_be_described():
    assert Machine.detect().platform in str(Machine.detect())


COMPATIBLE = engine(flavour="tensorrt", tensorrt_version="10.16.0.5", version_compatible=True)


@pytest.mark.parametrize(
    ("installed", "reads_it"),
    [
        ({"tensorrt": "10.16.0.5"}, "tensorrt"),
        ({"tensorrt": "10.17.1.2"}, "tensorrt"),
        ({"tensorrt_lean": "10.17.1.2"}, "tensorrt_lean"),
        ({"tensorrt_dispatch": "10.16.0.5", "tensorrt_rtx": "1.6.1.120"}, "tensorrt_dispatch"),
        ({"tensorrt": "10.15.0.1"}, None),
        ({"tensorrt": "11.1.0.1"}, None),
        ({"tensorrt_rtx": "10.16.0.5"}, None),
    ],
)
def test_a_version_compatible_engine_runs_with_later_tensorrt(installed, reads_it):
    machine = Machine("linux_x86_64", "sm89", installed)
    assert machine.runtime_for(COMPATIBLE) == reads_it
    assert (machine.misfit(COMPATIBLE) is None) == (reads_it is not None)
    assert machine.runtime_for(replace(COMPATIBLE, version_compatible=False)) == (
        "tensorrt" if installed.get("tensorrt") == "10.16.0.5" else None
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"platform": "linux_aarch64"}, "it is for linux_aarch64, this is linux_x86_64"),
        ({"compute_capability": "sm120"}, "it is for sm120, this GPU is sm89"),
        ({"tensorrt_version": "1.7"}, r"it needs tensorrt_rtx 1.7, here is tensorrt_rtx 1.6.1.120"),
    ],
)
def test_why_an_engine_does_not_fit(change, why, caplog):
    assert HERE.misfit(engine(**change)) == why
    open_part(bundle(engine(**change)), "decoder", "auto", HERE)
    assert why in caplog.text


def test_no_word_about_engines_where_there_are_none(caplog):
    open_part(bundle(), "decoder", "auto", HERE)
    assert caplog.text == ""


@pytest.mark.parametrize("stripped", [False, True])
def test_what_the_session_is_told_about_its_engine(monkeypatch, stripped):
    told = {}
    monkeypatch.setattr(open_engine, "load", lambda flavour: flavour)
    monkeypatch.setattr(open_engine, "TensorRTSession", lambda *_, **options: told.update(options))
    record = engine(stripped=stripped, version_compatible=not stripped)
    made = bundle(record)
    open_part(made, "decoder", "tensorrt", HERE)
    assert told == {"weights": made.weights("decoder") if stripped else None, "holds_host_code": not stripped}


def test_without_a_network_there_is_nothing_to_fall_back_to():
    shipped = bundle(engine(compute_capability="sm120"))
    shipped.has_network = False
    with pytest.raises(EngineError, match=r"this GPU is sm89; it ships engines only, so build one from the bundle"):
        open_part(shipped, "decoder", "auto", HERE)
