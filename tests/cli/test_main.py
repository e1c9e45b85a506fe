"""The dispatcher, and what all commands do alike with a path that is no bundle or a damaged one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import tt_edge as package
from tests.bundle.making import edit_manifest
from tt_edge.bundle.manifest import FORMAT_VERSION
from tt_edge.bundle.writer import BundleWriter
from tt_edge.cli import main

pytestmark = pytest.mark.xdist_group("cli")

COMMANDS = {"verify": (), "inspect": (), "run": ("--prompt", "a", "--max-new-tokens", 1)}
each_command = pytest.mark.parametrize("command", COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"tt-edge {package.__version__}\n")


@pytest.mark.parametrize("argv", [[], ["fly"], ["run"], ["compile", "x"], ["inspect", "x", "--loud"]])
def test_usage(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert err.startswith("usage: tt-edge")
    assert "Traceback" not in err


def test_sigterm_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    """As Ctrl-C does: ``timeout``, systemd and CI jobs that are stopped send it."""

    def write(_args):
        with BundleWriter(tmp_path / "out.ttedge"):
            assert any(tmp_path.iterdir())
            signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.setattr("tt_edge.cli.inspect.run", write)
    assert main(["inspect", "x"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "tt-edge: terminated\n"
    assert not any(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_run_without_a_prompt(tt_edge):
    tt_edge("run", "x.ttedge").fails_with("give --prompt TEXT, or --audio FILE for a speech model", 2)


@pytest.mark.parametrize("command", ["compile", *COMMANDS])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: tt-edge {command}" in capsys.readouterr().out


@each_command
def test_a_missing_path(tt_edge, tmp_path, command):
    path = tmp_path / "none.ttedge"
    tt_edge(command, path, *COMMANDS[command]).fails_with(
        f"bundle {path} does not exist; make it with `tt-edge compile … -o {path}`", 2
    )


@each_command
def test_a_file(tt_edge, tmp_path, command):
    (tmp_path / "file").write_text("{}")
    tt_edge(command, tmp_path / "file", *COMMANDS[command]).fails_with(
        "is not a bundle: it is a file; give a folder", 2
    )


@each_command
def test_a_checkpoint(tt_edge, checkpoint, command):
    tt_edge(command, checkpoint, *COMMANDS[command]).fails_with(
        "is a Hugging Face checkpoint; compile it first with", 2
    )


@each_command
@pytest.mark.parametrize("name", ["decoder/weights.safetensors", "decoder/network.json", "tokenizer.json"])
def test_a_truncated_bundle(tt_edge, bundle, command, name):
    with (bundle / name).open("r+b") as file:
        file.truncate(100)
    tt_edge(command, bundle, *COMMANDS[command]).fails_with(
        f"{bundle / name} has 100 bytes where the manifest says ", 1
    )


@each_command
def test_a_missing_file(tt_edge, bundle, command):
    (bundle / "decoder/weights.safetensors").unlink()
    tt_edge(command, bundle, *COMMANDS[command]).fails_with("weights.safetensors is missing from the bundle", 1)


@each_command
def test_a_newer_format(tt_edge, bundle, command):
    newer = FORMAT_VERSION + 1
    edit_manifest(bundle, lambda data: data.update(format_version=newer))
    tt_edge(command, bundle, *COMMANDS[command]).fails_with(
        f"the bundle has format version {newer}, this tt-edge reads up to {FORMAT_VERSION}; update tt-edge", 1
    )


@each_command
def test_a_manifest_that_leads_outside(tt_edge, bundle, command):
    edit_manifest(bundle, lambda data: data["files"].update({"../x": {"size": 0, "sha256": "0" * 64}}))
    tt_edge(command, bundle, *COMMANDS[command]).fails_with("'../x', which is not a path inside the bundle", 1)


@each_command
def test_a_manifest_that_is_not_json(tt_edge, bundle, command):
    (bundle / "manifest.json").write_text("{")
    tt_edge(command, bundle, *COMMANDS[command]).fails_with("manifest.json is not valid JSON", 1)


@pytest.mark.parametrize("command", ["inspect", "run"])
def test_a_contract_that_names_no_tensor_of_the_network(tt_edge, bundle, command):
    edit_manifest(bundle, lambda data: data["parts"]["decoder"]["kv_cache"][0].update(past="past_key_9"))
    tt_edge(command, bundle, *COMMANDS[command]).fails_with("past_key", 1)


@each_command
def test_debug_shows_the_traceback_and_then_the_line(tt_edge, tmp_path, command):
    result = tt_edge(command, tmp_path / "none", *COMMANDS[command], "--debug")
    assert result.status == 2
    assert result.err.startswith("Traceback (most recent call last):")
    assert "InvalidInputError" in result.err
    assert result.err.splitlines()[-1].startswith("tt-edge: error: bundle ")


def test_debug_of_compile(tt_edge, tmp_path):
    result = tt_edge("compile", tmp_path / "none", "-o", tmp_path / "out", "--engine", "foo", "--debug")
    assert result.err.startswith("Traceback (most recent call last):")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_system_is_one_line(tt_edge, bundle, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied", "weights.safetensors")

    monkeypatch.setattr("tt_edge.bundle.reader.Bundle.verify", denied)
    tt_edge("verify", bundle).fails_with("Permission denied (weights.safetensors); free space or check permissions", 1)


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_of_the_host(tt_edge, checkpoint, out, monkeypatch, package):
    def missing(*_, **__):
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr("tt_edge.compile.checkpoint.load.load_model", missing)
    tt_edge("compile", checkpoint, "-o", out).fails_with(
        f'{package} is not installed, which `tt-edge compile` needs; pip install "tt-edge[compile,rtx]"', 1
    )
    assert list(out.parent.iterdir()) == []


def python_m(*argv: object, **streams) -> subprocess.Popen:
    command = [sys.executable, "-m", "tt_edge", *map(str, argv)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **streams)


def test_as_a_module(tmp_path):
    process = python_m("inspect", tmp_path, stdout=subprocess.PIPE)
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert (
        err
        == f"tt-edge: error: {tmp_path} is not a bundle: it has no manifest.json; give a folder written by `tt-edge compile`\n"
    )


def test_a_reader_that_went_away_is_no_error(pristine):
    reading, writing = os.pipe()
    os.close(reading)
    process = python_m("inspect", pristine, stdout=writing)
    os.close(writing)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")
