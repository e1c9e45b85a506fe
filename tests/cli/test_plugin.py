"""`tt-edge plugin check`, and `compile`, `run` and `verify` of the plugin backend."""

from __future__ import annotations

import json

import pytest

from tt_edge.bundle import Bundle
from tt_edge.cli.plugin import render, render_own
from tt_edge.config import Backend, CompileConfig
from tt_edge.errors import MissingDependencyError
from tt_edge.plugins.edgellm import library
from tt_edge.plugins.edgellm.contracts import GENERATIONS

pytestmark = pytest.mark.xdist_group("cli")

LIMITS = ("--backend", "plugin", "--max-batch", 2, "--max-input-len", 32, "--max-seq-len", 64)


@pytest.mark.parametrize("version", GENERATIONS)
def test_compile_run_verify(tt_edge, checkpoint, out, version):
    compiled = tt_edge("compile", checkpoint, "-o", out, *LIMITS, "--plugin-contract", version)
    assert compiled.status == 0, compiled.err
    assert "engine   none: build where standard TensorRT and the plugin library are" in compiled.out
    config = Bundle.open(out).manifest.config
    assert (config.attention.backend, config.attention.plugin_contract) == (Backend.PLUGIN, version)
    ran = tt_edge("run", out, "--runtime", "reference", "--prompt", "a", "--max-new-tokens", 3)
    assert ran.status == 0, ran.err
    verified = tt_edge("verify", out, "--model", checkpoint, "--new-tokens", 4)
    assert verified.status == 0, verified.out


def test_the_newest_contract_is_the_default(tt_edge, checkpoint, out):
    tt_edge("compile", checkpoint, "-o", out, *LIMITS)
    assert Bundle.open(out).manifest.config.attention.plugin_contract == "0.11"


@pytest.mark.parametrize(
    ("targets", "contract"),
    [
        ((), "0.11"),
        (("jetpack-7.2",), "tt-edge"),
        (("jetpack-6.2", "tensorrt-10.13+sm87"), "tt-edge"),
        (("jetpack-7.2", "drive-os-7.2"), "0.11"),
        (("jetpack-7.2+tensorrt-11.4",), "0.11"),
        (("rtx",), "0.11"),
        (("x86",), "0.11"),  # with any TensorRT
    ],
)
def test_the_default_contract_is_our_own_where_every_target_has_tensorrt_10(targets, contract):
    config = CompileConfig.of(backend="plugin", platforms=targets)
    assert config.attention.plugin_contract == contract
    assert (
        CompileConfig.of(backend="plugin", plugin_contract="0.9.1", platforms=targets).attention.plugin_contract
        == "0.9.1"
    )
    assert CompileConfig.of(platforms=targets).attention.plugin_contract is None


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (("--plugin-contract", "0.11"), "plugin_contract 0.11 is not for backend native; add --backend plugin", 2),
        (
            ("--backend", "plugin", "--plugin-contract", "0.5"),
            "plugin_contract '0.5' is unknown; choose one of 0.4, 0.9.1, 0.10, 0.11, tt-edge",
            2,
        ),
        (("--backend", "plugin", "--precision", "bf16"), "precision is bf16; compile with --precision fp16", 1),
        (("--backend", "plugin", "--precision", "fp32"), "precision is fp32; compile with --precision fp16", 1),
    ],
)
def test_what_cannot_be_compiled(tt_edge, checkpoint, out, arguments, message, status):
    tt_edge("compile", checkpoint, "-o", out, *arguments).fails_with(message, status)
    assert not out.exists()


class TestCheck:
    def test_no_library(self, tt_edge, monkeypatch):
        monkeypatch.setattr(library, "_PACKAGE", "no_such_package")
        monkeypatch.delenv(library.ENVIRONMENT, raising=False)
        tt_edge("plugin", "check").fails_with("no plugin library is installed; pip install tensorrt-edgellm", 1)

    def test_no_such_file(self, tt_edge, tmp_path):
        tt_edge("plugin", "check", "--plugin-path", tmp_path / "x.so").fails_with("x.so is no file; give the plugin", 1)

    @pytest.mark.parametrize("json_", [False, True])
    def test_no_library_at_all_in_the_file(self, tt_edge, tmp_path, json_):
        """The file goes all the way: another process, TensorRT, the loader."""
        (tmp_path / "x.so").write_text("not a library")
        result = tt_edge("plugin", "check", "--plugin-path", tmp_path / "x.so", *(["--json"] if json_ else []))
        assert (result.status, result.err) == (1, "")
        error = json.loads(result.out)["error"] if json_ else result.out
        assert "the plugin library does not load" in error
        assert "x.so" in error

    def test_what_is_shown(self):
        result = {
            "library": "/lib/x.so",
            "tensorrt": "tensorrt 11.1",
            "creators": ["AttentionPlugin", "OtherPlugin"],
            "interface": "IPluginV3",
            "fields": {"num_q_heads": "INT32", "attention_scale": "FLOAT32"},
            "generation": "0.11",
        }
        shown = render(result)
        assert "/lib/x.so, looked at with tensorrt 11.1" in shown
        assert "IPluginV3, contract 0.11: compile with --backend plugin --plugin-contract 0.11" in shown
        assert "num_q_heads INT32, attention_scale FLOAT32" in shown
        assert "2 plugins       AttentionPlugin, OtherPlugin" in shown
        formats = {"context": {"qkv": True, "configure": True}, "generation": {"qkv": True, "past_key_values": False}}
        shown = render({**result, "formats": formats})
        assert "formats          context: all 2 accepted" in shown
        assert "formats          generation: REFUSED: past_key_values" in shown
        assert "formats          not asked, no GPU" in render({**result, "formats": "not asked, no GPU"})

    def test_what_is_shown_of_the_towers_plugin(self):
        found = {"fields": {"num_heads": "INT32"}, "formats": {"vision": {"q": True, "configure": True}}}
        result = {"library": "x.so", "tensorrt": "tensorrt 11.1", "vit": found}
        shown = render(result)
        assert "ViTAttentionPlugin  compile with --vision-attention plugin" in shown
        assert "fields           num_heads INT32" in shown
        assert "formats          vision: all 2 accepted" in shown
        shown = render({**result, "vit": {"fields": {"magic": "INT32"}, "error": "has the fields magic"}})
        assert "ViTAttentionPlugin  unknown contract" in shown
        assert "error            has the fields magic" in shown

    def test_what_is_shown_of_our_own_library(self):
        attention = {
            "namespace": "tt_edge",
            "name": "Attention",
            "fields": {"head_size": "INT32"},
            "contract": "tt-edge",
        }
        gemm = {"namespace": "", "name": "Int4GroupwiseGemmPlugin", "fields": {"gemm_n": "INT32"}}
        shown = render_own({"library": "x.so", "kernels": 1, "tensorrt": "tensorrt 10.3", "plugins": [attention, gemm]})
        assert "x.so, tt-edge's kernels, version 1: they fit this tt-edge" in shown
        assert (
            "tt_edge::Attention       contract tt-edge: compile with --backend plugin --plugin-contract tt-edge"
            in shown
        )
        assert "  Int4GroupwiseGemmPlugin\n    gemm_n INT32" in shown

    @pytest.mark.parametrize("where", ["formats", "vit"])
    @pytest.mark.parametrize(("yes", "status"), [(True, 0), (False, 1)])
    def test_a_refusal_is_the_exit_status(self, tt_edge, monkeypatch, yes, status, where):
        result = {"library": "x.so", "tensorrt": "tensorrt 11.1", where: {"context": {"qkv": yes}}}
        if where == "vit":
            result["vit"] = {"fields": {}, "formats": {"vision": {"q": yes}}}
        monkeypatch.setattr("tt_edge.plugins.edgellm.check.check_library", lambda path: result)
        assert tt_edge("plugin", "check").status == status


class TestFindLibrary:
    VARIANTS = ("x86-ubuntu2404-cu13-sm120-trt11", "x86-ubuntu2404-cu13-sm86", "x86-ubuntu2404-cu13-sm86-trt11",
                "aarch64-jetpack7-cu13-sm110-trt11")  # fmt: skip

    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        """An installed package that must not be imported."""
        monkeypatch.setattr(library, "_PACKAGE", "fake_edgellm")
        monkeypatch.delenv(library.ENVIRONMENT, raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        root = tmp_path / "fake_edgellm"
        for variant in self.VARIANTS:
            folder = root / "_native" / "payloads" / variant / "lib"
            folder.mkdir(parents=True)
            (folder / "libNvInfer_edgellm_plugin.so").touch()
        (root / "__init__.py").write_text("raise AssertionError")
        return root

    @pytest.mark.parametrize(
        ("machine", "capability", "variant"),
        [("x86_64", "sm86", 2), ("x86_64", "sm120", 0), ("x86_64", None, 0), ("aarch64", "sm110", 3)],
    )
    def test_the_machines_own(self, package, monkeypatch, machine, capability, variant):
        monkeypatch.setattr(library.platform, "machine", lambda: machine)
        found = library.find_library(compute_capability=capability)
        assert found.parent.parent.name == self.VARIANTS[variant]

    def test_the_environment_comes_first(self, package, tmp_path, monkeypatch):
        (tmp_path / "own.so").touch()
        monkeypatch.setenv(library.ENVIRONMENT, str(tmp_path / "own.so"))
        assert library.find_library() == tmp_path / "own.so"
        monkeypatch.setenv(library.ENVIRONMENT, str(tmp_path / "gone.so"))
        with pytest.raises(MissingDependencyError, match=r"gone\.so is no file"):
            library.find_library()


class TestBuild:
    """The command itself; that the kernels compile is tests/plugins/cuda/test_build.py's."""

    def test_another_architecture(self, tt_edge):
        tt_edge("plugin", "build", "--arch", "sm_75").fails_with("--arch sm_75 is not one of sm_80, sm_86, sm_87", 2)

    def test_no_gpu_to_ask(self, tt_edge, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        tt_edge("plugin", "build").fails_with("nvidia-smi shows no GPU here to compile for; give --arch", 1)

    def test_no_headers_where_they_should_be(self, tt_edge, tmp_path):
        ran = tt_edge("plugin", "build", "--arch", "87", "--trt-include", tmp_path)
        ran.fails_with("has no NvInferRuntime.h; give the folder with TensorRT's headers", 2)

    def test_what_is_built(self, tt_edge, monkeypatch, tmp_path):
        """With a compiler that only writes what it is told to, the library is where it was asked for."""
        compiler = tmp_path / "nvcc"
        compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho tt_kernels_version > "$2"\n')
        compiler.chmod(0o755)
        monkeypatch.setenv("CUDACXX", str(compiler))
        monkeypatch.setattr("tt_edge.plugins.cuda.build.find_headers", lambda given: given)
        built = tt_edge("plugin", "build", "--arch", "87", "--arch", "sm_110", "-o", tmp_path / "out" / "k.so")
        assert (built.status, built.err) == (0, "")
        assert f"{tmp_path / 'out' / 'k.so'}  for sm_87, sm_110" in built.out
        assert "no TensorRT plugins: they need TensorRT's headers" in built.out
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["k.so"]
        checked = tt_edge("plugin", "check", tmp_path / "out" / "k.so")
        checked.fails_with("k.so is no library of tt-edge's kernels", 1)
