"""The vision network in TensorRT's hands, against fakes in host memory whose calls are checked against the real bindings.

No engine has been executed; test_cuda has the copies on a GPU.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.bindings.surface import Recorder
from tests.compile.vision.test_vision_network import GRIDS, compiled, picture
from tests.runtime.engine import fake_tensorrt
from tt_edge import cuda
from tt_edge.errors import EngineError
from tt_edge.folder import CheckedFile
from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward, TensorRTFeedForward
from tt_edge.runtime.multimodal.vision_inputs import vision_inputs
from tt_edge.tensorrt_api import Flavour, Log, TensorRT


class Fake:
    def __init__(self, monkeypatch, tmp_path, family, **limits) -> None:
        self.trt = pytest.importorskip("tensorrt_rtx")
        _, self.network, self.contract, _, _ = compiled(family)  # with TensorRT as it is
        self.cuda = fake_tensorrt.FakeCuda(**limits)
        recorded = Recorder(self.cuda, pytest.importorskip("cuda.bindings.runtime"), None, [])
        monkeypatch.setattr(cuda, "runtime", lambda: recorded)
        monkeypatch.setattr(TensorRT, "logger", None)
        monkeypatch.setattr(TensorRT, "log", Log())
        self.engine = fake_tensorrt.FakeEngine(self.network, self.contract)
        self.file = tmp_path / "vision.engine"
        self.file.write_bytes(b"engine")

    def open(self, engine="its own") -> TensorRTFeedForward:
        found = fake_tensorrt.FakeModule(self.engine if engine == "its own" else engine)
        module = Recorder(found, self.trt, self.trt, [])
        return TensorRTFeedForward(CheckedFile.open(self.file), self.contract, TensorRT(Flavour.RTX, module, "1.6.1"))


def feeds_of(contract, grids):
    if contract.geometry.tile_size is not None:
        pictures = [picture(contract, tiles=len(grids))]
    else:
        pictures = [picture(contract, grid, seed=i) for i, grid in enumerate(grids)]
    return vision_inputs(contract, pictures)[0]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_features_are_the_references(monkeypatch, tmp_path, family):
    """Calls of several sizes, larger and smaller ones, through the same buffers."""
    fake = Fake(monkeypatch, tmp_path, family)
    session = fake.open()
    memory, reference = set(fake.cuda.memory), ReferenceFeedForward(fake.network, fake.contract)
    for grids in ("odd", "three", "video", "odd"):
        feeds = feeds_of(fake.contract, GRIDS[grids])
        want = reference.run(feeds)
        got = session.run(feeds)
        assert got.keys() == want.keys() == {spec.name for spec in fake.contract.outputs}
        for name in want:
            assert np.array_equal(got[name], want[name])
    assert set(fake.cuda.memory) == memory, "nothing is allocated after it is opened"
    session.close()
    session.close()
    assert (fake.cuda.memory, fake.cuda.streams) == ({}, 0)


def test_a_shape_beyond_the_profile_is_refused(monkeypatch, tmp_path):
    fake = Fake(monkeypatch, tmp_path, "internvl")
    session = fake.open()
    limit = fake.contract.max_units
    fake.engine.contract = compiled("internvl")[2].from_dict(
        {
            **fake.contract.to_dict(),
            "limits": {**fake.contract.to_dict()["limits"], "min_image_tokens": 4, "max_image_tokens": 8},
        }
    )
    feeds = feeds_of(fake.contract, [None] * limit)
    with pytest.raises(EngineError, match=r"TensorRT 1\.6\.1 refuses shape .* for pixel_values; build an engine here"):
        session.run(feeds)
    session.close()


@pytest.mark.parametrize("allocations", range(5))
def test_too_little_memory_leaves_nothing(monkeypatch, tmp_path, allocations):
    fake = Fake(monkeypatch, tmp_path, "internvl", allocations=allocations)
    with pytest.raises(EngineError, match="out of memory"):
        fake.open()
    assert (fake.cuda.memory, fake.cuda.streams) == ({}, 0)


def test_an_engine_that_does_not_load(monkeypatch, tmp_path):
    fake = Fake(monkeypatch, tmp_path, "internvl")
    with pytest.raises(EngineError, match=r"does not load vision\.engine on Fake GPU; build an engine here"):
        fake.open(engine=None)
    assert (fake.cuda.memory, fake.cuda.streams) == ({}, 0)


def test_the_engine_of_another_network(monkeypatch, tmp_path):
    fake = Fake(monkeypatch, tmp_path, "internvl")
    fake.engine.names.append("segment_ids")
    with pytest.raises(EngineError, match=r"has other inputs and outputs than the bundle's contract \(segment_ids\)"):
        fake.open()
    assert fake.cuda.memory == {}
