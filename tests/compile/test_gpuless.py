from __future__ import annotations

import importlib
import sys

import pytest

from tt_edge.compile.gpuless import _without_modelopt


def test_modelopt_is_hidden_from_an_import_and_found_after_it(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "modelopt"]:
        monkeypatch.delitem(sys.modules, name)
    with _without_modelopt(), pytest.raises(ModuleNotFoundError):
        importlib.import_module("modelopt.torch")
    assert "modelopt" not in sys.modules
    assert importlib.util.find_spec("modelopt") is not None


def test_modelopt_that_is_loaded_stays(monkeypatch):
    loaded = type(sys)("modelopt")
    monkeypatch.setitem(sys.modules, "modelopt", loaded)
    with _without_modelopt():
        assert sys.modules["modelopt"] is loaded
    assert sys.modules["modelopt"] is loaded
