"""A compile as a job: its stages in order, and nothing left of it afterwards."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest
import torch

from tests.tiny_models import tiny_model
from tt_edge import tensorrt_api
from tt_edge.bundle import Bundle, EngineRecord
from tt_edge.bundle.engines import engine_file
from tt_edge.compile import job, memory
from tt_edge.compile.job import CompileJob
from tt_edge.compile.origin import MemoryOrigin
from tt_edge.compile.pipeline import compile_model
from tt_edge.config import CompileConfig, EngineTarget
from tt_edge.errors import EngineError, InvalidInputError

CONFIG = CompileConfig.of(precision="fp32", max_input_len=16, max_seq_len=32)


def small():
    return tiny_model("llama", num_hidden_layers=1)


def live_bytes() -> int:
    """Of all tensors that are alive, each storage once."""
    tensors = (o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter))
    storages = {s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storages.values())


def test_six_compiles_leave_nothing(tmp_path):
    weights, alive, frozen = [], [], gc.get_freeze_count()

    def make():
        model = small()
        weights.extend(weakref.ref(parameter) for parameter in model.parameters())
        return model

    for _ in range(6):
        compile_model(make, tmp_path / "out.ttedge", CONFIG, EngineTarget(), overwrite=True)
        alive.append(live_bytes())
    assert len(weights) == 6 * 12
    assert not any(reference() is not None for reference in weights)
    assert alive[-1] == alive[1], "bytes of tensors grow from compile to compile"
    assert gc.isenabled()
    assert gc.get_freeze_count() <= frozen


def test_a_failed_compile_leaves_nothing_either(tmp_path):
    models = []

    def make():
        model = small()
        models.append(weakref.ref(model))
        return model

    config = CompileConfig.of(precision="fp32", max_input_len=16, max_seq_len=4096)
    with pytest.raises(InvalidInputError, match="max_seq_len 4096 exceeds the 512 tokens that the model was made for"):
        compile_model(make, tmp_path / "out.ttedge", config, EngineTarget())
    gc.collect()
    assert models[0]() is None
    assert list(tmp_path.iterdir()) == []
    assert gc.isenabled()


def test_the_stages_are_methods_and_nothing_is_read_back(tmp_path, monkeypatch):
    """Every file of the unfinished bundle is only written."""
    stages = ["check_target", "load", "resolve_limits", "quantize", "collect_files", "compilers", "build", "finish"]
    ran = []
    for name in stages:
        stage = getattr(CompileJob, name)
        monkeypatch.setattr(
            CompileJob, name, lambda *arguments, name=name, stage=stage: ran.append(name) or stage(*arguments)
        )
    opened = []
    monkeypatch.setattr("pathlib.Path.open", lambda path, *_, **__: opened.append(path) or 1 / 0)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: opened.append(path) or 1 / 0)
    report = CompileJob(MemoryOrigin(small, "small"), tmp_path / "out.ttedge", CONFIG, EngineTarget()).run()
    assert ran == stages
    assert not [path for path in opened if "out.ttedge" in str(path)]
    monkeypatch.undo()
    assert Bundle.open(tmp_path / "out.ttedge").verify() == []
    assert list(report.parts) == ["decoder"]
    assert report.model.name == "small"


TARGETS = EngineTarget(("sm89", "sm120"))


def record(target):
    tensorrt = tensorrt_api.load()
    return EngineRecord(
        engine_file(tensorrt, target), str(tensorrt.flavour), tensorrt.version, tensorrt.platform, target, 6, 1.0
    )


@pytest.mark.parametrize("at_once", [1, 2])
def test_engines_of_several_targets(tmp_path, monkeypatch, at_once):
    """At once, if memory allows; in the order of the targets, whichever is built first."""
    together = threading.Barrier(at_once, timeout=60)

    def build(network, contract, target, destination, **_):
        together.wait()
        destination.write(b"engine")
        return record(target), 5

    monkeypatch.setattr(job, "build_record", build)
    monkeypatch.setattr(job, "builds_at_once", lambda weight_bytes, targets: at_once)
    compile_model(small, tmp_path / "out.ttedge", CONFIG, TARGETS)
    bundle = Bundle.open(tmp_path / "out.ttedge")
    assert [engine.compute_capability for engine in bundle.manifest.engines] == ["sm89", "sm120"]
    assert bundle.verify() == []


def test_an_engine_that_fails_ends_the_others(tmp_path, monkeypatch):
    def build(network, contract, target, destination, *, goes_on, **_):
        if target == "sm120":
            raise EngineError("refused")
        while goes_on():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "build_record", build)
    monkeypatch.setattr(job, "builds_at_once", lambda weight_bytes, targets: 2)
    with pytest.raises(EngineError, match="refused"):
        compile_model(small, tmp_path / "out.ttedge", CONFIG, EngineTarget(("sm120", "sm89")))
    assert list(tmp_path.iterdir()) == []


def test_as_many_builds_at_once_as_memory_holds(monkeypatch):
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda _: range(4))
    monkeypatch.setattr(memory, "available_bytes", lambda: 10 << 30)
    assert memory.builds_at_once(1 << 30, targets=2) == 2
    assert memory.builds_at_once(1 << 30, targets=9) == 4
    assert memory.builds_at_once(2 << 30, targets=9) == 2
    assert memory.builds_at_once(20 << 30, targets=9) == 1


def test_the_memory_that_is_available():
    assert memory.available_bytes() > 100 << 20
