"""Signatures of bundles: what they cover, what breaks them, and keys that are none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.bundle.making import ENGINE, edit_manifest, flip_byte, write_bundle
from tt_edge.bundle import Bundle, Evidence
from tt_edge.bundle.keys import new_key, read_public_keys
from tt_edge.bundle.signing import sign
from tt_edge.bundle.update import record_evidence
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.folder import Folder


@pytest.fixture
def path(tmp_path):
    write_bundle(tmp_path / "b.ttedge")
    return tmp_path / "b.ttedge"


@pytest.fixture
def keys(tmp_path):
    return new_key(str(tmp_path / "vehicle"))


def test_a_signed_bundle_opens_where_its_key_is_required(path, keys):
    private, public = keys
    sign(path, private)
    assert Bundle.open(path, public).verify() == []
    assert (path / "manifest.sig").stat().st_size == 64
    assert Bundle.open(path).is_signed


def test_an_unsigned_one_does_not(path, keys):
    assert not Bundle.open(path).is_signed
    with pytest.raises(BundleError, match=r"is not signed \(manifest\.sig: No such file or directory\).*tt-edge sign"):
        Bundle.open(path, keys[1])


def test_the_environment_requires_it_of_everybody(path, keys, monkeypatch):
    monkeypatch.setenv("TT_EDGE_REQUIRE_SIGNATURE", str(keys[1]))
    with pytest.raises(BundleError, match="is not signed"):
        Bundle.open(path)
    monkeypatch.delenv("TT_EDGE_REQUIRE_SIGNATURE")
    sign(path, keys[0])
    monkeypatch.setenv("TT_EDGE_REQUIRE_SIGNATURE", str(keys[1]))
    Bundle.open(path)


def test_another_key(path, keys, tmp_path):
    sign(path, new_key(str(tmp_path / "other"))[0])
    with pytest.raises(BundleError, match=r"is not signed with .*vehicle\.public\.pem: another key signed it, or"):
        Bundle.open(path, keys[1])


def test_one_of_several_keys(path, keys, tmp_path):
    other, both = new_key(str(tmp_path / "other")), tmp_path / "both.pem"
    both.write_bytes(other[1].read_bytes() + keys[1].read_bytes())
    sign(path, keys[0])
    assert len(read_public_keys(both)) == 2
    Bundle.open(path, both)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: edit_manifest(path, lambda data: data.update(created_by="me")),
        lambda path: record_evidence(Folder.open(path), Evidence("network", "evaluated", "matches")),
        lambda path: flip_byte(path / "manifest.sig"),
        lambda path: (path / "manifest.sig").write_bytes(b""),
        lambda path: (path / "manifest.sig").write_bytes((path / "manifest.sig").read_bytes() + b"\0"),
    ],
)
def test_what_invalidates_a_signature(path, keys, change):
    sign(path, keys[0])
    change(path)
    with pytest.raises(BundleError, match="is not signed with"):
        Bundle.open(path, keys[1])


def test_a_changed_file_is_found_when_it_is_used(path, keys):
    sign(path, keys[0])
    flip_byte(path / "decoder/weights.safetensors")
    flip_byte(path / ENGINE)
    opened = Bundle.open(path, keys[1])
    with pytest.raises(BundleError, match=r"weights\.safetensors was edited"):
        opened.network()
    with pytest.raises(BundleError, match=r"engine was edited"):
        opened.check_content(ENGINE)


def test_a_damaged_bundle_is_not_signed(path, keys):
    flip_byte(path / ENGINE)
    with pytest.raises(BundleError, match="was edited"):
        sign(path, keys[0])
    assert not (path / "manifest.sig").exists()


def test_a_key_of_ones_own_is_private_and_never_written_over(tmp_path):
    private, public = new_key(str(tmp_path / "k"))
    assert private.stat().st_mode & 0o777 == 0o600
    before = private.read_bytes()
    with pytest.raises(InvalidInputError, match=r"k\.private\.pem exists already"):
        new_key(str(tmp_path / "k"))
    assert private.read_bytes() == before
    assert b"PUBLIC KEY" in public.read_bytes()


def test_a_key_with_a_passphrase(path, tmp_path):
    private, public = new_key(str(tmp_path / "k"), b"secret")
    for wrong in (None, b"guess"):
        with pytest.raises(InvalidInputError, match="is no usable private key"):
            sign(path, private, wrong)
    sign(path, private, b"secret")
    Bundle.open(path, public)


def rsa_key() -> bytes:
    key = rsa.generate_private_key(65537, 1024)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, serialization.NoEncryption())


@pytest.mark.parametrize("content", [b"", b"not a key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"])
def test_files_that_are_no_keys(path, keys, tmp_path, content):
    file = tmp_path / "wrong.pem"
    file.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"wrong\.pem is no usable private key"):
        sign(path, file)
    sign(path, keys[0])
    with pytest.raises(InvalidInputError, match=r"wrong\.pem (is no usable|has 0) public key"):
        Bundle.open(path, file)
    with pytest.raises(InvalidInputError, match=r"public key .*missing\.pem cannot be read"):
        Bundle.open(path, tmp_path / "missing.pem")


def test_a_key_of_another_kind(path, tmp_path):
    (tmp_path / "rsa.pem").write_bytes(rsa_key())
    with pytest.raises(InvalidInputError, match=r"rsa\.pem is a RSAPrivateKey, not an Ed25519 key"):
        sign(path, tmp_path / "rsa.pem")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_makes_and_checks_the_same_signatures(path, keys):
    private, public = (Path(key) for key in keys)
    files = ["-in", path / "manifest.json"]
    signature = path / "manifest.sig"
    subprocess.run(["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", private, *files, "-out", signature], check=True)
    Bundle.open(path, public)
    ours = signature.read_bytes()
    sign(path, private)
    assert signature.read_bytes() == ours
    subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, *files, "-sigfile", signature],
        check=True,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_requirement_is_an_error(path, monkeypatch, empty):
    """What a shell variable that is not set leaves behind must not open everything."""
    with pytest.raises(InvalidInputError, match="--require-signature is empty; give a file of public keys, or omit it"):
        Bundle.open(path, empty)
    monkeypatch.setenv("TT_EDGE_REQUIRE_SIGNATURE", empty)
    with pytest.raises(InvalidInputError, match="TT_EDGE_REQUIRE_SIGNATURE is empty"):
        Bundle.open(path)


def test_an_option_comes_before_the_environment(path, keys, monkeypatch, tmp_path):
    sign(path, keys[0])
    monkeypatch.setenv("TT_EDGE_REQUIRE_SIGNATURE", str(tmp_path / "missing.pem"))
    Bundle.open(path, keys[1])


@pytest.mark.parametrize("number", [1, 2])
def test_a_full_disk_leaves_no_key(tmp_path, monkeypatch, number):
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 2 * (number - 1):  # a file and its folder each
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidInputError, match=r"private\.pem cannot be written \(No space left on device\)"):
        new_key(str(tmp_path / "k"))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    new_key(str(tmp_path / "k"))
