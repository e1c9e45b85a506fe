"""A compile as a job: its stages in order, and nothing left of it afterwards."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from tests.models.tiny_models import tiny_model
from tt_edge.bundle import Bundle
from tt_edge.compile.job import CompileJob
from tt_edge.compile.origin import MemoryOrigin
from tt_edge.compile.pipeline import compile_model
from tt_edge.config import CompileConfig, EngineTarget
from tt_edge.errors import InvalidInputError

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
