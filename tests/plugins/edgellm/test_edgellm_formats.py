"""What a plugin library is asked: the shapes that are compiled for it, in both profiles. The answers need a GPU."""

from __future__ import annotations

import pytest

from tests.compile.compiling import compiled
from tests.models.tiny_models import tiny_model
from tt_edge.errors import EngineError
from tt_edge.plugins.edgellm import formats
from tt_edge.plugins.edgellm.contracts import CACHE, GENERATIONS


@pytest.mark.parametrize("version", GENERATIONS)
def test_the_questions_are_the_compiled_profiles(version):
    """The engine's own inputs of the plugin, in a model of the same limits and heads."""
    model = tiny_model("llama", hidden_size=112, num_attention_heads=14, num_key_value_heads=2, head_dim=64)
    limits = {"max_batch": 4, "max_input_len": 128, "max_seq_len": 256}
    contract = compiled(model, backend="plugin", plugin_contract=version, **limits).contract
    for ranges, profile in zip(formats.PROFILES.values(), contract.profiles(), strict=True):
        for operand in GENERATIONS[version].inputs:
            name = "past_key_values_0" if operand.name == CACHE else operand.name
            if name not in profile:  # made inside the network
                assert operand.dtype in (None, "float32")
                continue
            varying, *bounds = formats.shapes_of(operand, ranges)
            assert tuple(bounds) == (profile[name].min, profile[name].opt, profile[name].max)
            fixed = [d if isinstance(d, int) else -1 for d in contract.input(name).shape]
            assert list(varying) == fixed


def test_tokens_are_rows_times_width():
    for ranges in formats.PROFILES.values():
        rows, width, tokens = ranges["batch"], ranges["sequence"], ranges["tokens"]
        assert tokens == tuple(b * s for b, s in zip(rows, width, strict=True))


def test_a_v2_plugin_is_not_asked():
    with pytest.raises(EngineError, match="only V3 plugins are"):
        formats.check_formats(None, GENERATIONS["0.4"])


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EngineError, match=r"no C\+\+ compiler"):
        formats.check_formats(None, GENERATIONS["0.11"])


def test_without_headers(monkeypatch, tmp_path):
    """A compiler that finds nothing: what it says is passed on, with what to set."""
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'NvInferRuntime.h: No such file or directory' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(EngineError, match=r"NvInferRuntime\.h: No such file.*TT_EDGE_TENSORRT_INCLUDE"):
        formats.check_formats(None, GENERATIONS["0.11"])
