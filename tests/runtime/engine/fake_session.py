"""A TensorRT session over the fakes, each call of which is checked against the real bindings."""

from __future__ import annotations

import pytest

from tests.bindings.surface import Call, Recorder
from tests.models.decoders import compiled
from tests.runtime.engine import fake_tensorrt
from tt_edge import cuda
from tt_edge.folder import CheckedFile
from tt_edge.runtime.engine.tensorrt_session import TensorRTSession
from tt_edge.tensorrt_api import Flavour, Log, TensorRT


class Fake:
    """A session over the fakes."""

    def __init__(self, monkeypatch, tmp_path, network=None, contract=None, **limits) -> None:
        self.trt = pytest.importorskip("tensorrt_rtx")
        self.calls: list[Call] = []
        self.cuda = fake_tensorrt.FakeCuda()
        recorded = Recorder(self.cuda, pytest.importorskip("cuda.bindings.runtime"), None, self.calls)
        monkeypatch.setattr(cuda, "runtime", lambda: recorded)
        monkeypatch.setattr(TensorRT, "logger", None)
        monkeypatch.setattr(TensorRT, "log", Log())
        self.network, self.contract = (network, contract) if network else compiled(**limits)
        self.engine = fake_tensorrt.FakeEngine(self.network, self.contract)
        self.engine.queue = self.cuda.queue
        self.file = tmp_path / "sm89.engine"
        self.file.write_bytes(b"engine")

    def open(self, **options) -> TensorRTSession:
        self.module = fake_tensorrt.FakeModule(self.engine)
        module = Recorder(self.module, self.trt, self.trt, self.calls)
        return TensorRTSession(
            CheckedFile.open(self.file), self.contract, TensorRT(Flavour.RTX, module, "1.6.1"), **options
        )


@pytest.fixture
def fake(monkeypatch, tmp_path):
    return Fake(monkeypatch, tmp_path)


def names(calls: list[Call]) -> list[str]:
    return [name for name, _ in calls]
