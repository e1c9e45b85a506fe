"""Which arrays are on the device, and that NumPy's and the device's never meet; with a stand-in for CuPy."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.models.decoders import compiled
from tests.runtime.engine.test_reference_session import PROMPTS
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError, MissingDependencyError, UnsupportedModelError
from tt_edge.generation_config import GenerationConfig
from tt_edge.network.reference import ReferenceEvaluator, device
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.scheduling.generation import generate


class DeviceArray:
    """As CuPy's: functions of NumPy are computed where all arrays are on the device, and refuse NumPy's arrays."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.asarray(array)

    def get(self) -> np.ndarray:
        return self.array.copy()

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("implicit conversion of a device array to NumPy's")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        assert method == "__call__", "CuPy has no other"
        return _call(ufunc, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return _call(function, args, options)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.array, name)
        return (lambda *args, **options: _call(value, args, options)) if callable(value) else _given(value)

    def __getitem__(self, key: Any) -> Any:
        return _given(self.array[_taken(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.array[_taken(key)] = _taken(value)

    def __len__(self) -> int:
        return len(self.array)

    def __bool__(self) -> bool:
        return bool(self.array)


def _operator(name: str) -> Any:
    def run(self: DeviceArray, *others: Any) -> Any:
        return _given(getattr(self.array, name)(*[_taken(other) for other in others]))

    return run


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "lt", "le", "gt", "ge", "ne", "eq", "and", "or",
              "invert", "neg", "iadd", "isub", "imul", "itruediv"):  # fmt: skip
    setattr(DeviceArray, f"__{_name}__", _operator(f"__{_name}__"))


def _taken(value: Any) -> Any:
    if isinstance(value, DeviceArray):
        return value.array
    if isinstance(value, (tuple, list)):
        return type(value)(_taken(one) for one in value)
    assert not isinstance(value, np.ndarray) or value.ndim == 0, "an array of NumPy's beside those of the device"
    return value


def _given(value: Any) -> Any:
    return DeviceArray(value) if isinstance(value, (np.ndarray, np.generic)) else value


def _call(function: Any, args: Any, options: Any) -> Any:
    return _given(function(*_taken(tuple(args)), **{name: _taken(value) for name, value in options.items()}))


@pytest.fixture
def arrays(monkeypatch):
    module = ModuleType("cupy")
    module.__dict__.update(
        __version__="14.0", ndarray=DeviceArray,
        asarray=lambda x: x if isinstance(x, DeviceArray) else DeviceArray(np.array(x)),
        zeros=lambda *args: DeviceArray(np.zeros(*args)), arange=lambda *args: DeviceArray(np.arange(*args)),
        cuda=SimpleNamespace(runtime=SimpleNamespace(getDevice=lambda: 0, memGetInfo=lambda: (1 << 32, 1 << 33))),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT16])
def test_the_same_tokens_as_in_host_memory(arrays, dtype):
    network, contract = compiled(dtype=dtype)
    config = GenerationConfig(10)
    want = generate(ReferenceSession(network, contract), PROMPTS, config)
    session = ReferenceSession(network, contract, device.cupy())
    assert session.word == "evaluated by the reference session, on a GPU by CuPy"
    assert [g.new_token_ids for g in generate(session, PROMPTS, config)] == [w.new_token_ids for w in want]


def test_keys_and_values_of_a_slot(arrays):
    network, contract = compiled()
    kept = []
    for one in (ReferenceSession(network, contract), ReferenceSession(network, contract, arrays)):
        one.reset(2)
        one.forward(np.array([[5, 6, 7], [8, 9, 1]]), np.array([3, 3]))
        prefix = one.read_kv(1, [8, 9, 1])
        one.write_kv(0, prefix)
        kept.append((prefix, one.forward(np.array([[4], [4]]), np.array([1, 1]))))
    (first, logits), (second, others) = kept
    assert all((second.tensors[name] == data).all() for name, data in first.tensors.items())
    np.testing.assert_array_equal(others, logits)
    np.testing.assert_array_equal(others[0], others[1])


def test_types_that_cupy_lacks(arrays):
    network, _ = compiled(dtype=DType.BFLOAT16)
    with pytest.raises(UnsupportedModelError, match=r"is bfloat16, which CuPy lacks; omit --device, or compile with"):
        ReferenceEvaluator(network, arrays=arrays)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MissingDependencyError, match=r"--device cuda needs CuPy .*; install tt-edge\[cupy\], or omit"):
        device.cupy()


def test_without_a_gpu(arrays):
    def fail() -> None:
        raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    arrays.cuda.runtime.getDevice = fail
    with pytest.raises(
        EngineError, match=r"CuPy 14.0 finds no usable GPU \(cudaErrorNoDevice: no CUDA-capable .*omit --device"
    ):
        device.cupy()
