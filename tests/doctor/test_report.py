"""What the doctor says of machines and bundles. GPUs and TensorRT packages are facts made up here; files are of real layouts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.bundle.making import ENGINE, edit_manifest, write_bundle
from tests.doctor.trees import plant
from tests.network.reference.building import NetworkBuilder
from tt_edge.bundle import Bundle
from tt_edge.doctor import Report, examine
from tt_edge.doctor.facts import Facts, gather, trap_findings
from tt_edge.doctor.gpu import Gpu
from tt_edge.doctor.needs import bundle_findings
from tt_edge.doctor.report import machine_findings, target_of
from tt_edge.doctor.software import Library, Package
from tt_edge.dtypes import DType
from tt_edge.platforms import parse_platform
from tt_edge.runtime.engine.choose import Machine
from tt_edge.tensorrt_features import features_of_release

GIB = 1 << 30
ORIN = Gpu("Orin", "sm87", 61 * GIB, 50 * GIB, True, "12.6", "12.6")
THOR = Gpu("NVIDIA Thor", "sm110", 122 * GIB, 110 * GIB, True, "13.0", "13.0")
ADA = Gpu("NVIDIA RTX 4090", "sm89", 24 * GIB, 20 * GIB, False, "12.8", "12.6")
JETPACK_7_1 = Package("tensorrt", "10.13.3.9", ("squeeze",), ("attention",), True, True)


@pytest.fixture
def facts(tmp_path):
    """Facts of a tree, with a GPU and TensorRT packages that are given."""

    def make(tree: str, gpu: Gpu | str, *packages: Package, library: Library | None = None) -> Facts:
        found = gather(plant(tree, tmp_path / tree), tmp_path)
        return replace(found, gpu=gpu, packages=packages, library=library)

    return make


def said(findings, topic: str) -> list[tuple[str, str]]:
    return [(finding.level, str(finding)) for finding in findings if finding.topic == topic]


def test_this_machine_is_examined_to_the_end():
    report = examine()
    assert {f.topic for f in report.findings} >= {"system", "python", "gpu", "plugins", "memory", "disk"}
    assert report.healthy
    assert json.loads(json.dumps(report.to_dict()))["healthy"]
    assert report.render().endswith("nothing is wrong")


def test_no_gpu_is_a_note_on_a_computer_and_wrong_on_a_device(facts):
    ((level, text),) = said(machine_findings(facts("any other machine", "no driver")), "gpu")
    assert (level, "no GPU that CUDA can use: no driver" in text) == ("note", True)
    ((level, text),) = said(machine_findings(facts("jetpack-6.2", "no driver")), "gpu")
    assert (level, text) == ("wrong", "CUDA finds no GPU on this device: no driver")


def test_a_healthy_orin(facts):
    found = list(
        machine_findings(facts("jetpack-6.2", ORIN, Package("tensorrt", "10.3.0", ("fp4",), ("squeeze",), True, True)))
    )
    assert {finding.level for finding in found} <= {"ok", "note"}
    assert said(found, "gpu") == [("ok", "Orin, sm87, 61.0 GiB of memory, shared with the CPU, 50.0 GiB free")]
    assert said(found, "tensorrt") == [("ok", "tensorrt 10.3.0: builds; lacks squeeze")]
    assert said(found, "huge pages") == [("ok", "64 pages of 2 MiB reserved, 60 free; transparent: madvise")]
    assert said(found, "cma") == [("ok", "128 MiB of 256 MiB free")]


@pytest.mark.parametrize(
    ("tree", "gpu", "version", "target"),
    [
        ("jetpack-6.2", ORIN, "10.3.0", "jetpack-6.2"),
        ("jetpack-6.2", "no driver", "", "jetpack-6.2"),
        ("jetpack-6.2", ORIN, "10.7.0", "jetpack-6.2+tensorrt-10.7"),
        ("dgx-spark", replace(THOR, compute_capability="sm121"), "11.1.0", "spark+tensorrt-11.1"),
        ("jetpack-6.2", THOR, "10.3.0", "jetpack-6.2+sm110"),
        ("jetpack-7.0, Thor", THOR, "10.13.3", ""),
        ("any other machine", ADA, "11.1.0", ""),
    ],
)
def test_the_target_that_describes_a_machine(facts, tree, gpu, version, target):
    here = facts(tree, gpu, *([Package("tensorrt", version, (), (), True, True)] if version else []))
    assert target_of(here) == target
    expected = [("ok", f"`tt-edge compile --target {target}` checks what can be built here")] if target else []
    assert said(machine_findings(here), "target") == expected
    if target:
        parse_platform(target)


def test_huge_pages_and_cma_are_a_device_s(facts):
    topics = {finding.topic for finding in machine_findings(facts("any other machine", ADA))}
    assert not topics & {"huge pages", "cma"}


def test_the_system_s_bindings_are_named_where_this_python_does_not_see_them(facts):
    ((level, text),) = said(machine_findings(facts("jetpack-6.2", ORIN)), "tensorrt")
    assert level == "warning"
    assert "/usr/lib/python3.10/dist-packages" in text
    assert "--system-site-packages" in text


def test_a_package_that_does_not_load_is_wrong(facts):
    broken = Package("tensorrt", error="tensorrt: libnvinfer.so.10: cannot open shared object file")
    ((level, text),) = said(machine_findings(facts("any other machine", ADA, broken)), "tensorrt")
    assert (level, "libnvinfer.so.10" in text) == ("wrong", True)


def test_a_cuda_runtime_that_the_driver_does_not_serve_is_wrong(facts):
    ((level, text),) = said(machine_findings(facts("jetpack-6.2", replace(ORIN, runtime_cuda="13.0"))), "cuda")
    assert level == "wrong"
    assert text == (
        "the driver serves CUDA 12.6, the runtime library is 13.0; "
        'pip install "cuda-bindings==12.*", or update the driver'
    )


def names(facts: Facts, **bundle) -> list[str]:
    return [finding.source for finding in trap_findings(facts, **bundle)]


def test_traps_of_tensorrt_10_13_on_thor(facts):
    here = facts("jetpack-7.0, Thor", THOR, JETPACK_7_1)
    assert names(here, max_batch=1) == ["NVIDIA/TensorRT-Edge-LLM#151, #105"]
    assert names(here, max_batch=2) == []
    assert names(here, max_batch=2, quantization="fp8") == ["NVIDIA/TensorRT#4590"]
    assert names(facts("jetpack-6.2", ORIN, JETPACK_7_1), max_batch=1, quantization="fp8") == []


def test_the_trap_of_large_allocations(facts):
    here = facts("jetpack-6.2.1, 36.4.7, without the package", ORIN, Package("tensorrt", "10.3.0"))
    assert names(here, largest=2 * GIB) == ["ggml-org/llama.cpp#23732"]
    assert names(here, largest=GIB >> 1) == []
    assert names(facts("jetpack-6.2", ORIN, Package("tensorrt", "10.3.0")), largest=2 * GIB) == []


@pytest.mark.parametrize(
    ("version", "wrong"), [("11.0.1", True), ("11.4.0", True), ("11.4.1", False), ("10.16.2", False)]
)
def test_tensorrt_11_on_a_jetson(facts, version, wrong):
    here = facts("jetpack-7.0, Thor", THOR, Package("tensorrt", version))
    assert any("do not run on a Jetson" in f.text for f in trap_findings(here, max_batch=4)) == wrong


def test_tensorrt_rtx_on_a_gpu_that_it_does_not_execute_on(facts):
    assert [f.level for f in trap_findings(facts("jetpack-6.2", ORIN, Package("tensorrt_rtx", "1.6.1")))] == ["wrong"]
    assert [*trap_findings(facts("any other machine", ADA, Package("tensorrt_rtx", "1.6.1")))] == []


@pytest.fixture
def bundle(tmp_path):
    write_bundle(tmp_path / "a.ttedge")
    return Bundle.open(tmp_path / "a.ttedge")


FITS = Machine("linux_x86_64", "sm89", {"tensorrt_rtx": "1.6.1.1"})
FITS_NOT = Machine("linux_aarch64", "sm87", {"tensorrt": "10.3.0"})


def test_an_engine_that_runs_here(facts, bundle):
    found = list(bundle_findings(facts("any other machine", ADA, Package("tensorrt_rtx", "1.6.1.1")), bundle, FITS))
    assert said(found, "decoder engine") == [("ok", f"{ENGINE} runs here (0.0 MB)")]
    ((level, text),) = said(found, "memory needed")
    assert (level, text.startswith("engines 0 MiB, KV cache 0 MiB at 3 x 48 tokens")) == ("ok", True)


def test_no_engine_runs_here(facts, bundle):
    rtx = Package("tensorrt_rtx", "1.6.1.1")
    ((level, text),) = said(bundle_findings(facts("jetpack-6.2", ORIN, rtx), bundle, FITS_NOT), "decoder engine")
    assert (level, f"build one with `tt-edge build {bundle.path}`" in text) == ("warning", True)
    assert "it is for linux_x86_64, this is linux_aarch64" in text
    ((level, _),) = said(bundle_findings(facts("any other machine", "none", rtx), bundle, FITS_NOT), "decoder engine")
    assert level == "note"
    ((level, _),) = said(bundle_findings(facts("jetpack-6.2", "none", rtx), bundle, FITS_NOT), "decoder engine")
    assert level == "wrong"


def test_engines_only_and_none_fits(facts, bundle, tmp_path):
    for name in ("decoder/network.json", "decoder/weights.safetensors"):
        edit_manifest(bundle.path, lambda data, name=name: data["files"].pop(name))
    ((level, text),) = said(
        bundle_findings(facts("jetpack-6.2", ORIN), Bundle.open(bundle.path), FITS_NOT), "decoder engine"
    )
    assert (level, "ships engines only" in text) == ("wrong", True)


def test_too_little_memory(facts, bundle):
    small = replace(ADA, memory_free=1000)
    ((level, text),) = said(bundle_findings(facts("any other machine", small), bundle, FITS), "memory needed")
    assert (level, "compile with a smaller --max-batch" in text) == ("wrong", True)


def test_a_report_with_something_wrong(facts, bundle):
    here = facts("jetpack-6.2", "no driver")
    report = Report(here, (*machine_findings(here), *bundle_findings(here, bundle, FITS_NOT)), str(bundle.path))
    assert not report.healthy
    assert report.render().endswith("2 wrong")
    assert report.to_dict()["bundle"] == str(bundle.path)


@pytest.mark.parametrize(
    ("version", "form"),
    [
        ("11.4.0", "as captured"),
        ("10.16.1", "with attention layers with a mask"),
        ("10.14.1", "with attention layers with a mask, a KV cache that goes through the network"),
    ],
)
def test_the_form_that_a_bundle_is_built_in(facts, bundle, version, form):
    has = [feature.name for feature in features_of_release(version)]
    package = Package("tensorrt", version, tuple(has), (), True, True)
    found = list(bundle_findings(facts("jetpack-6.2", ORIN, package), bundle, FITS_NOT))
    ((level, text),) = said(found, "decoder form")
    assert level == "ok"
    assert text.startswith(f"tensorrt {version} builds it {form}")
    assert [
        f
        for f in bundle_findings(facts("jetpack-6.2", ORIN, replace(package, has_builder=False)), bundle, FITS_NOT)
        if f.topic == "decoder form"
    ] == []


@pytest.mark.parametrize(("version", "level"), [("10.16.1", "ok"), ("10.14.1", "wrong")])
def test_a_cache_that_goes_through_the_network_is_held_twice(facts, bundle, version, level):
    """Free memory has room for the weights and one and a half caches."""
    package = Package("tensorrt", version, tuple(f.name for f in features_of_release(version)), (), True, True)
    weights = bundle.manifest.files["decoder/weights.safetensors"].size
    gpu = replace(ADA, memory_free=weights + bundle.manifest.contract.kv_bytes(3) * 3 // 2)
    found = bundle_findings(facts("any other machine", gpu, package), bundle, FITS_NOT)
    assert [f.level for f in found if f.topic == "memory needed"] == [level]


def test_a_gpu_that_lacks_a_type_of_the_network(facts, bundle, monkeypatch):
    builder = NetworkBuilder()
    network = builder.output(builder.layer("CAST", [builder.input("x", DType.FLOAT16, (-1,))], DType.FP8, (-1,)))
    monkeypatch.setattr(Bundle, "network", lambda self, part: network)
    for gpu, expected in ((ORIN, ["float8_e4m3fn needs compute capability sm89 or later, not sm87"]), (THOR, [])):
        found = list(bundle_findings(facts("jetpack-6.2", gpu), bundle, FITS_NOT))
        assert [(f.level, f.text) for f in found if f.topic == "decoder types"] == [("wrong", t) for t in expected]
