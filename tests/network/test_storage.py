"""The files: readable by the safetensors library, deterministic, and refused when malformed."""

from __future__ import annotations

import json
import time

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tt_edge.dtypes import DType
from tt_edge.errors import BundleError
from tt_edge.folder import CheckedFile, Folder
from tt_edge.network.ir import Layer, Network, Tensor
from tt_edge.network.storage import network_json, read_network, read_weights, write_network

WEIGHTS = {
    "a": np.arange(5, dtype=np.float32),
    "b": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
    "c": np.arange(3, dtype=np.uint8),
    "d": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
}


def small_network():
    tensors = {
        "x": Tensor("x", DType.FLOAT32, (-1, 5)),
        "k": Tensor("k", DType.FLOAT32, (1, 5)),
        "y": Tensor("y", DType.FLOAT32, (-1, 5)),
    }
    layers = [
        Layer("k", "CONSTANT", [], ["k"], {"weights": "a", "shape": [1, 5]}),
        Layer("sum", "ELEMENTWISE", ["x", "k"], ["y"], {"op": "SUM"}),
    ]
    return Network("small", ["x"], ["y"], tensors, layers, WEIGHTS)


def read_folder(path):
    folder = Folder.open(path)
    return read_network(folder.file("network.json"), folder.file("weights.safetensors"))


@pytest.fixture
def folder(tmp_path):
    write_network(small_network(), lambda name: (tmp_path / name).open("wb"))
    return tmp_path


def test_round_trip_is_deterministic_and_mapped(folder, tmp_path):
    network = read_folder(folder)
    assert network.layers == small_network().layers
    again = tmp_path / "again"
    again.mkdir()
    write_network(network, lambda name: (again / name).open("wb"))
    for name in ("network.json", "weights.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    weight = network.weights["b"]
    assert weight.dtype == ml_dtypes.bfloat16
    assert not weight.flags.writeable
    assert not weight.flags.owndata
    assert all(w.ctypes.data % 64 == 0 for w in network.weights.values())


def test_the_safetensors_library_reads_the_file(folder):
    safetensors = pytest.importorskip("safetensors.torch")
    stored = safetensors.load_file(folder / "weights.safetensors")
    assert stored["b"].float().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert stored["a"].tolist() == [0, 1, 2, 3, 4]


def edited(folder, **changes):
    data = json.loads((folder / "network.json").read_text())
    data.update(changes)
    (folder / "network.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "update tt-edge"),
        ({"format_version": "1"}, "malformed"),
        ({"layers": "none"}, "malformed"),
        ({"layers": [["k", "CONSTANT", [], ["k"], {"weights": "zz", "shape": [1, 5]}]], "outputs": ["k"],
          "inputs": [], "tensors": {"k": ["float32", [1, 5]]}}, "names the weight 'zz'"),
        ({"outputs": ["nothing"]}, "made by no layer"),
        ({"inputs": []}, "before it is made"),
        ({"tensors": {"x": ["float128", [1]]}}, "malformed"),
    ],
)  # fmt: skip
def test_an_edited_network_is_refused(folder, changes, message):
    edited(folder, **changes)
    with pytest.raises(BundleError, match=message):
        read_folder(folder)


def test_a_constant_that_does_not_fit_its_weight_is_refused(folder):
    data = json.loads((folder / "network.json").read_text())
    data["tensors"]["k"][1] = [1, 6]
    (folder / "network.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match=r"shape \[1, 6\] does not fit its weight of 20 bytes"):
        read_folder(folder)


@pytest.mark.parametrize("size", [0, 4, 8, 100])
def test_truncated_weights_are_refused(folder, size):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BundleError):
        read_weights(CheckedFile.open(path))


def header(path, entries):
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    return path


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}, "does not fill"),
        ({"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}, "non-negative"),
        ({"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}, "non-negative"),
        ({"dtype": "F32", "shape": [1 << 20], "data_offsets": [0, 1 << 22]}, "ends at byte"),
        ({"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}, "no usable dtype"),
        ({"dtype": "F32", "shape": 4, "data_offsets": [0, 16]}, "no usable dtype"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "non-negative"),
    ],
)
def test_a_hostile_header_is_refused(tmp_path, entry, message):
    with pytest.raises(BundleError, match=message):
        read_weights(CheckedFile.open(header(tmp_path / "w.safetensors", {"w": entry})))


def test_overlapping_tensors_are_refused(tmp_path):
    entry = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}
    with pytest.raises(BundleError, match="overlaps"):
        read_weights(
            CheckedFile.open(header(tmp_path / "w.safetensors", {"a": entry, "b": {**entry, "data_offsets": [4, 12]}}))
        )


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_flipped_bytes_never_crash_the_reader(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    write_network(small_network(), lambda name: (folder / name).open("wb"))
    path = folder / data.draw(st.sampled_from(["network.json", "weights.safetensors"]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 600) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message = ""
    try:
        read_folder(folder)
    except BundleError as error:
        message = str(error)
    assert "\n" not in message


def test_network_json_has_a_layer_a_line():
    lines = network_json(small_network()).decode().splitlines()
    assert sum(line.startswith('["') for line in lines) == 2


def test_a_network_larger_than_any_is_refused_before_it_is_parsed(folder):
    """256 MiB of JSON once took 7.8 GB and 52 s."""
    file, start = folder / "network.json", time.monotonic()
    with file.open("r+b") as sparse:
        sparse.truncate(256 << 20)
    with pytest.raises(BundleError, match="it is larger than 64 MiB"):
        read_folder(folder)
    file.write_bytes(b'{"layers": [' + b"[]," * 2_000_001 + b"[]]}")
    with pytest.raises(BundleError, match=r"network.json is not valid JSON"):
        read_folder(folder)
    assert time.monotonic() - start < 5
