"""Nothing of a damaged bundle is used, and the message says what to do."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.bundle.making import ENGINE, edit_manifest, flip_byte, sha256_of, write_bundle
from tests.models.decoders import compiled
from tt_edge.bundle import Bundle
from tt_edge.bundle import reader as reader_module
from tt_edge.errors import BundleError, InvalidInputError

NEXT_STEP = "copy the bundle again"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "tiny.ttedge"
    write_bundle(path)
    return path


@pytest.fixture
def bundle(pristine, tmp_path):
    """A bundle to damage."""
    return shutil.copytree(pristine, tmp_path / "tiny.ttedge")


def test_a_whole_bundle(bundle):
    opened = Bundle.open(str(bundle))
    assert opened.verify() == []
    assert opened.has("config.json")
    assert not opened.has("manifest.json")
    assert opened.read_bytes("config.json") == b"{}"
    assert opened.file(ENGINE).path == bundle / ENGINE
    network, reference = opened.network(), compiled()[0]
    assert network.layers == reference.layers
    for key, weight in reference.weights.items():
        np.testing.assert_array_equal(network.weights[key], weight)


def test_a_bundle_may_be_moved(bundle, tmp_path):
    moved = tmp_path / "elsewhere"
    bundle.rename(moved)
    assert Bundle.open(moved).verify() == []


def test_paths_that_are_no_bundle(tmp_path):
    with pytest.raises(
        InvalidInputError, match=r"missing does not exist; make it with `tt-edge compile … -o .*missing"
    ):
        Bundle.open(tmp_path / "missing")
    with pytest.raises(InvalidInputError, match=r"is not a bundle: it has no manifest\.json; give a folder written by"):
        Bundle.open(tmp_path)
    (tmp_path / "file").write_text("{}")
    with pytest.raises(InvalidInputError, match="file is not a bundle: it is a file; give a folder written by"):
        Bundle.open(tmp_path / "file")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="is a Hugging Face checkpoint; compile it first with `tt-edge compile"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "decoder/network.json", "decoder/weights.safetensors", ENGINE])
def test_truncated_files(bundle, name):
    size = (bundle / name).stat().st_size
    with (bundle / name).open("r+b") as file:
        file.truncate(size - 1)
    with pytest.raises(
        BundleError, match=f"{name} has {size - 1:,} bytes where the manifest says {size:,}; .*{NEXT_STEP}"
    ):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["config.json", "decoder/network.json", "decoder/weights.safetensors", ENGINE])
def test_edited_bytes(bundle, name):
    before = sha256_of(bundle / name)
    flip_byte(bundle / name)
    with pytest.raises(
        BundleError, match=f"{name} was edited: its SHA-256 is .*manifest says {before[:12]}.*{NEXT_STEP}"
    ):
        Bundle.open(bundle).verify()


@pytest.mark.parametrize("name", ["config.json", ENGINE])
def test_missing_files(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing from the bundle .*{NEXT_STEP}"):
        Bundle.open(bundle)


def test_an_edited_small_file_is_never_read(bundle):
    flip_byte(bundle / "config.json")
    with pytest.raises(BundleError, match=r"config\.json was edited.*copy the bundle again"):
        Bundle.open(bundle).read_bytes("config.json")


def test_a_small_file_that_is_too_large_is_not_read(bundle):
    with pytest.raises(BundleError, match=r"config\.json has 2 bytes, more than the 1 allowed; do not use it"):
        Bundle.open(bundle).read_bytes("config.json", limit=1)


def test_files_that_are_not_listed(bundle):
    (bundle / "engines" / "extra").write_text("")
    (bundle / "note.txt").write_text("")
    opened = Bundle.open(bundle)
    assert opened.verify() == ["engines/extra", "note.txt"]
    with pytest.raises(BundleError, match=r"has no note\.txt; compile the model again"):
        opened.read_bytes("note.txt")


@pytest.mark.parametrize("name", ["decoder/network.json", "decoder/weights.safetensors"])
def test_a_network_that_is_not_listed_is_not_read(bundle, name):
    edit_manifest(bundle, lambda data: data["files"].pop(name))
    with pytest.raises(BundleError, match=f"has no {name}: it ships engines only"):
        Bundle.open(bundle).network()


@pytest.mark.parametrize("name", ["../secret", "{absolute}", "engines/../../secret"])
def test_a_manifest_cannot_name_files_outside(bundle, tmp_path, name):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    name = name.format(absolute=secret)
    record = {"size": 6, "sha256": sha256_of(secret)}
    edit_manifest(bundle, lambda data: data["files"].update({name: record}))
    with pytest.raises(BundleError, match="not a path inside the bundle; do not use it"):
        Bundle.open(bundle)


@pytest.mark.parametrize("folder", [False, True])
def test_a_link_cannot_lead_outside(bundle, tmp_path, folder):
    link = bundle / "engines" if folder else bundle / ENGINE
    outside = link.rename(tmp_path / "outside")
    link.symlink_to(outside)
    with pytest.raises(BundleError, match=f"{link.name} is a symbolic link, which a bundle must not have; {NEXT_STEP}"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["n" * 300, "config.json/x", "missing/x"])
def test_names_that_no_file_can_have(bundle, name):
    edit_manifest(bundle, lambda data: data["files"].update({name: {"size": 0, "sha256": "0" * 64}}))
    with pytest.raises(BundleError, match=f"is missing from the bundle .*{NEXT_STEP}"):
        Bundle.open(bundle)


def test_a_folder_in_a_files_place(bundle):
    (bundle / "config.json").unlink()
    (bundle / "config.json").mkdir()
    with pytest.raises(BundleError, match=f"config.json is a folder, not a regular file; {NEXT_STEP}"):
        Bundle.open(bundle)


def test_a_manifest_of_a_newer_format(bundle):
    edit_manifest(bundle, lambda data: data.update(format_version=4))
    with pytest.raises(BundleError, match="format version 4, this tt-edge reads up to 3; update tt-edge"):
        Bundle.open(bundle)


def test_a_manifest_that_is_not_json(bundle):
    (bundle / "manifest.json").write_text("half of it")
    with pytest.raises(BundleError, match=rf"manifest\.json is not valid JSON .*{NEXT_STEP}"):
        Bundle.open(bundle)


def test_a_huge_manifest_is_not_read(bundle, monkeypatch):
    monkeypatch.setattr(reader_module, "MAX_MANIFEST", 1 << 10)
    with pytest.raises(BundleError, match=r"manifest\.json is larger than .*; do not use it"):
        Bundle.open(bundle)
