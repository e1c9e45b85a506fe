"""Bundles without their network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bundle.making import ENGINE, edit_manifest, flip_byte, write_bundle
from tt_edge.bundle import Bundle
from tt_edge.bundle.shipping import ship_engines
from tt_edge.bundle.update import edit_manifest as change_manifest
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.folder import Folder


@pytest.fixture
def path(tmp_path):
    write_bundle(tmp_path / "b.ttedge")
    return tmp_path / "b.ttedge"


def test_engines_and_settings_are_copied_and_the_network_is_not(path, tmp_path):
    original, shipped = Bundle.open(path).manifest, ship_engines(Bundle.open(path), tmp_path / "ship")
    assert set(original.files) - set(shipped.files) == {"decoder/network.json", "decoder/weights.safetensors"}
    assert replace(shipped, files=original.files) == original
    assert Bundle.open(tmp_path / "ship").verify() == []


def test_weights_are_copied_for_engines_that_lack_them(path, tmp_path):
    change_manifest(
        Folder.open(path), lambda m: replace(m, engines=tuple(replace(e, stripped=True) for e in m.engines))
    )
    shipped = ship_engines(Bundle.open(path), tmp_path / "ship")
    assert "decoder/weights.safetensors" in shipped.files
    assert "decoder/network.json" not in shipped.files
    assert Bundle.open(tmp_path / "ship").weights().keys() == Bundle.open(path).weights().keys()


def test_nothing_to_ship(path, tmp_path):
    edit_manifest(path, lambda data: data.update(engines=[]))
    with pytest.raises(InvalidInputError, match=r"has no engines to ship; build one with `tt-edge build"):
        ship_engines(Bundle.open(path), tmp_path / "ship")


def test_a_damaged_engine_is_not_shipped(path, tmp_path):
    flip_byte(path / ENGINE)
    with pytest.raises(BundleError, match="was edited"):
        ship_engines(Bundle.open(path), tmp_path / "ship")
    assert not (tmp_path / "ship").exists()
