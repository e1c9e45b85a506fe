"""tt-edge sign, and --require-signature of the commands that read bundles."""

from __future__ import annotations

import pytest

from tt_edge.bundle import Bundle

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture
def signed(tt_edge, bundle, tmp_path):
    result = tt_edge("sign", bundle, "--new-key", tmp_path / "vehicle")
    assert result.status == 0, result.err
    assert [line.split(": ")[0] for line in result.out.splitlines()] == [
        *(f"{tmp_path}/vehicle.{kind}.pem" for kind in ("private", "public")),
        str(bundle),
    ]
    return bundle


@pytest.mark.parametrize(
    "command",
    [("run", "--prompt", "a", "--max-new-tokens", 1), ("inspect",), ("verify",), ("build", "--engine", "sm89")],
)
def test_only_what_is_signed_is_read(tt_edge, signed, tmp_path, command):
    required = ("--require-signature", tmp_path / "vehicle.public.pem")
    assert tt_edge(command[0], signed, *command[1:], *required).status == 0
    (signed / "manifest.sig").unlink()
    tt_edge(command[0], signed, *command[1:], *required).fails_with("is not signed", 1)


def test_chat_and_serve_require_it_too(tt_edge, bundle, tmp_path):
    tt_edge("sign", "--new-key", tmp_path / "k")
    for command in ("chat", "serve"):
        tt_edge(command, bundle, "--require-signature", tmp_path / "k.public.pem").fails_with("is not signed", 1)


def test_building_says_that_the_signature_is_out_of_date(tt_edge, signed):
    assert "its signature is of the bundle before; sign it again" in tt_edge("build", signed, "--engine", "sm89").err


def test_verifying_leaves_a_signed_bundle_alone(tt_edge, signed, checkpoint, tmp_path):
    result = tt_edge("verify", signed, "--model", checkpoint, "--new-tokens", 2)
    assert "not recorded in the bundle's manifest, which is signed" in result.out
    Bundle.open(signed, tmp_path / "vehicle.public.pem")


def test_the_passphrase_comes_from_the_environment(tt_edge, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("TT_EDGE_KEY_PASSPHRASE", "secret")
    tt_edge("sign", "--new-key", tmp_path / "k")
    assert tt_edge("sign", bundle, "--key", tmp_path / "k.private.pem").status == 0
    monkeypatch.delenv("TT_EDGE_KEY_PASSPHRASE")
    tt_edge("sign", bundle, "--key", tmp_path / "k.private.pem").fails_with("is no usable private key", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --key PEM to sign with, or --new-key NAME"),
        (("--key", "a", "--new-key", "b"), "give --key PEM to sign with, or --new-key NAME"),
        (("--key", "missing.pem"), "private key missing.pem cannot be read"),
    ],
)
def test_bad_input(tt_edge, bundle, arguments, message):
    tt_edge("sign", bundle, *arguments).fails_with(message, 2)


def test_a_bundle_that_is_none_makes_no_key(tt_edge, tmp_path):
    tt_edge("sign", tmp_path / "none", "--new-key", tmp_path / "k").fails_with("does not exist", 2)
    tt_edge("sign", "--key", "k").fails_with("--key signs a bundle; name the bundle", 2)
    assert list(tmp_path.iterdir()) == []
