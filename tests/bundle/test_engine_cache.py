"""The cache of engines: a hit is the same bytes, anything that decides the engine makes another entry, a damaged one is none."""

from __future__ import annotations

import dataclasses
import io
import os

import numpy as np
import pytest

from tests.models.decoders import compiled
from tests.network.test_build import block, captured, contract  # noqa: F401  (fixtures)
from tt_edge import tensorrt_api
from tt_edge.bundle import engine_cache, engines
from tt_edge.bundle.engine_cache import EngineCache, cache_key
from tt_edge.bundle.manifest import EngineRecord
from tt_edge.config import Layout
from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.network.build_options import BuildOptions
from tt_edge.network.ir import Layer

ENGINE = b"engine" * 1000


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "cache")


@pytest.fixture
def builds(monkeypatch):
    """Builds that write ``ENGINE`` in pieces, and their targets."""
    targets = []

    def build(tensorrt, network, contract, target, destination, show, options, layout, part):
        targets.append(target)
        for piece in (ENGINE[:100], memoryview(ENGINE)[100:]):
            destination.write(piece)
        return EngineRecord("e.engine", "tensorrt_rtx", "1.6", "linux_x86_64", str(target), len(ENGINE), 2.5), 7

    monkeypatch.setattr(engines, "_build", build)
    return targets


def built(cache, target="sm89", **changes):
    network, contract = compiled()
    file = io.BytesIO()
    found = engines.build_record(network, contract, target, file, show=False, cache=cache, **changes)
    return file.getvalue(), found


def entries(cache):
    return sorted(cache.folder.names())


def test_the_second_build_is_a_copy(cache, builds):
    first, second = built(cache), built(cache)
    assert first == second
    assert first[0] == ENGINE
    assert builds == ["sm89"]
    assert built(cache, "sm120")[1][0].compute_capability == "sm120"
    assert builds == ["sm89", "sm120"]
    assert len(entries(cache)) == 2


def test_no_cache_no_file(builds, tmp_path):
    assert built(None) == built(None)
    assert len(builds) == 2


def changed_weight(network, contract):
    key = next(iter(network.weights))
    weight = network.weights[key].copy()
    weight.reshape(-1).view(np.uint8)[-1] ^= 1
    network.weights[key] = weight
    return network, contract


def changed_layer(network, contract):
    layer = next(layer for layer in network.layers if layer.kind == "ELEMENTWISE")
    layer.attributes["op"] = "MIN"
    return network, contract


def changed_limit(network, contract):
    return network, dataclasses.replace(contract, limits=dataclasses.replace(contract.limits, max_input_len=7))


KEY = {
    "a bit of a weight": (changed_weight, {}),
    "a layer": (changed_layer, {}),
    "the profiles": (changed_limit, {}),
    "the target": (None, {"target": "sm120"}),
    "an option": (None, {"options": BuildOptions(workspace_bytes=1 << 20)}),
    "the part": (None, {"settings": ("tt-edge", "vision")}),
    "the layout": (None, {"settings": (Layout.EDGE_LLM.value, "decoder")}),
}


def key_of(network, contract, target="sm89", options=None, settings=("tt-edge", "decoder")):
    return cache_key(tensorrt_api.load(), network, contract, target, options or BuildOptions(), settings)


@pytest.mark.parametrize("what", KEY)
def test_whatever_decides_the_engine_is_in_the_key(what):
    change, arguments = KEY[what]
    same = key_of(*compiled())
    assert same == key_of(*compiled())
    assert key_of(*(change or (lambda *both: both))(*compiled()), **arguments) != same


def test_another_tensorrt_or_another_tt_edge_is_another_entry(monkeypatch):
    before = key_of(*compiled())
    newer = dataclasses.replace(tensorrt_api.load(), version="99.0")
    assert cache_key(newer, *compiled(), "sm89", BuildOptions(), ("tt-edge", "decoder")) != before
    monkeypatch.setattr(engine_cache, "_code", lambda: "other code")
    assert key_of(*compiled()) != before


def test_what_is_not_kept():
    network, contract = compiled()
    assert key_of(network, contract, target=None) is None
    network.layers.append(Layer("plugin", "PLUGIN_V3", [], [], {}))
    assert key_of(network, contract) is None


@pytest.mark.parametrize("position", [0, 30, 110, 4096, -1])
def test_a_damaged_entry_is_built_again(cache, builds, position, caplog):
    built(cache)
    (name,) = entries(cache)
    path = cache.folder.path / name
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert built(cache)[0] == ENGINE
    assert len(builds) == 2
    assert "is damaged" in caplog.text
    built(cache)
    assert len(builds) == 2


@pytest.mark.parametrize(("old", "new"), [(b'"layers": 7', b'"layers": 8'), (b"tensorrt_rtx", b"tensorrt_rty")])
def test_a_header_that_says_something_else_is_damage(cache, builds, old, new):
    built(cache)
    (name,) = entries(cache)
    path = cache.folder.path / name
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    assert built(cache)[1][1] == 7
    assert len(builds) == 2


def test_an_entry_of_another_user_is_none(cache, builds, monkeypatch):
    built(cache)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert built(cache)[0] == ENGINE
    assert len(builds) == 2


def test_a_cache_that_may_only_be_read_is_used(cache, builds, monkeypatch):
    def refused(*_args, **_kwargs):
        raise OSError(30, "Read-only file system")

    first = built(cache)
    monkeypatch.setattr(os, "utime", refused)
    assert built(cache) == first
    assert len(builds) == 1
    (name,) = entries(cache)
    (cache.folder.path / name).write_bytes(b"damaged")
    monkeypatch.setattr(os, "unlink", refused)
    assert built(cache)[0] == ENGINE
    assert len(builds) == 2


def test_stripped_weights_are_keyed_as_they_are_built(monkeypatch):
    stripped = BuildOptions(strip_weights=True)
    monkeypatch.setattr("tt_edge.cuda.is_available", lambda: False)  # the engine holds its weights
    assert key_of(*compiled(), options=stripped) == key_of(*compiled())
    monkeypatch.setattr("tt_edge.cuda.is_available", lambda: True)
    assert key_of(*compiled(), options=stripped) != key_of(*compiled())


def test_the_least_recently_used_go(cache, builds):
    targets = ["sm80", "sm86", "sm89"]
    for age, target in enumerate(targets):
        built(cache, target)
        newest = max((cache.folder.path / name for name in entries(cache)), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (age, age))
    built(cache, "sm80")  # used
    cache.limit = 3 * (len(ENGINE) + 4096)
    built(cache, "sm120")
    builds.clear()
    for target in ("sm80", "sm89", "sm120"):
        built(cache, target)
    assert builds == []
    built(cache, "sm86")
    assert builds == ["sm86"]


def test_a_failed_build_leaves_nothing(cache, monkeypatch):
    def failing(*arguments):
        arguments[4].write(b"half")
        raise EngineError("refused")

    monkeypatch.setattr(engines, "_build", failing)
    with pytest.raises(EngineError, match="refused"):
        built(cache)
    assert entries(cache) == []


def test_a_full_disk_of_the_cache_fails_no_build(cache, builds, monkeypatch, caplog):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine_cache.KeptEngine, "_write_copy", full)
    assert built(cache)[0] == ENGINE
    assert "the build cache cannot be written (No space left on device)" in caplog.text
    assert entries(cache) == []


def test_folders_that_others_can_write_are_refused(tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    with pytest.raises(InvalidInputError, match="can be written by others, and an engine is a program; `chmod 700` it"):
        EngineCache(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match=r"build cache .*file cannot be used"):
        EngineCache(tmp_path / "file")
    monkeypatch.setenv(engine_cache.SIZE_VARIABLE, "-1")
    with pytest.raises(InvalidInputError, match="TT_EDGE_BUILD_CACHE_GB is '-1'; give a number of GB, such as 20"):
        EngineCache(tmp_path / "new")


def test_the_folder_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(engine_cache.VARIABLE, raising=False)
    assert EngineCache.of(None) is None
    monkeypatch.setenv(engine_cache.VARIABLE, str(tmp_path / "made"))
    cache = EngineCache.of(None)
    assert cache is not None
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700


def test_a_real_engine(cache, captured):  # noqa: F811
    files = []
    for _ in range(2):
        files.append(io.BytesIO())
        record, layers = engines.build_record(captured[0], contract(), "sm89", files[-1], show=False, cache=cache)
        assert record.bytes == len(files[-1].getvalue())
        assert layers
    assert files[0].getvalue() == files[1].getvalue()
    assert len(entries(cache)) == 1
