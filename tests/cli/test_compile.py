"""`tt-edge compile`: a whole bundle, or one line that says why not and nothing left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import LIMITS
from tt_edge.bundle import Bundle
from tt_edge.compile.origin import CheckpointOrigin
from tt_edge.config import CompileConfig, Precision
from tt_edge.errors import EngineError
from tt_edge.tensorrt_features import ATTENTION, ATTENTION_LENGTHS, FEATURES

pytestmark = pytest.mark.xdist_group("cli")


def test_a_bundle_without_engines(pristine, checkpoint):
    bundle = Bundle.open(pristine)
    assert bundle.verify() == []
    manifest = bundle.manifest
    assert manifest.config == CompileConfig.of(precision=Precision.FP32, max_batch=2, max_input_len=16, max_seq_len=64)
    assert (manifest.model.architecture, manifest.model.source) == ("Qwen2ForCausalLM", str(checkpoint))
    assert manifest.engines == ()
    assert [(e.claim, e.word) for e in manifest.evidence] == [("network", "not executed")]
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        assert bundle.has(name)


def test_an_engine_ahead_of_time(tt_edge, checkpoint, out):
    result = tt_edge("compile", checkpoint, "-o", out, "--engine", "sm89", "--single-profile", *LIMITS)
    assert (result.status, list(out.parent.iterdir())) == (0, [out])
    bundle = Bundle.open(out)
    assert bundle.verify() == []
    (engine,) = bundle.manifest.engines
    assert engine.compute_capability == "sm89"
    assert engine.bytes == bundle.manifest.files[engine.file].size > 0
    assert bundle.manifest.config.network.precision is Precision.FP16
    built = [e.claim for e in bundle.manifest.evidence if e.word == "built"]
    assert [claim.split(" 1")[0] for claim in built] == ["engine for sm89, tensorrt_rtx"]
    assert "engine   sm89" in result.out
    shown = tt_edge("inspect", out).out
    assert f"engines      sm89    {engine.flavour} {engine.tensorrt_version}" in shown


def test_the_form_of_an_engine_that_is_not_the_captured_one(tt_edge, checkpoint, out, monkeypatch):
    """As where the builder has no attention layers: the report says what stands for them."""
    older = [feature for feature in FEATURES if feature not in (ATTENTION, ATTENTION_LENGTHS)]
    monkeypatch.setattr("tt_edge.network.build_legal.features_of", lambda _: frozenset(older))
    report = tt_edge("compile", checkpoint, "-o", out, "--engine", "sm89", *LIMITS).out
    [line] = [line for line in report.splitlines() if line.startswith("  engine ")]
    assert line.endswith(", built; matrix multiplies and a softmax)")
    [built] = tt_edge("build", out, "--engine", "sm86").out.splitlines()
    assert built.endswith(", built; matrix multiplies and a softmax)")
    monkeypatch.undo()
    [built] = tt_edge("build", out, "--engine", "sm86").out.splitlines()
    assert built.endswith(", built)")


def test_bf16_for_a_gpu_without_it_is_refused_before_the_model_loads(tt_edge, checkpoint, out, monkeypatch):
    monkeypatch.setattr(CheckpointOrigin, "load", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr(CheckpointOrigin, "files", lambda *_: pytest.fail("its files were read"))
    tt_edge("compile", checkpoint, "-o", out, "--engine", "sm75", "--precision", "bf16").fails_with(
        "precision bfloat16 needs compute capability sm80 or later, not sm75; compile with --precision fp16, or another "
        "--engine target",
        1,
    )
    assert list(out.parent.iterdir()) == []


def test_the_report_as_json_and_lengths_within_the_models(tt_edge, checkpoint, out):
    result = tt_edge("compile", checkpoint, "-o", out, "--json")
    report = json.loads(result.out)
    assert result.err == ""
    assert (report["output"], report["model"]["architecture"]) == (str(out), "Qwen2ForCausalLM")
    assert report["layers"] == len(Bundle.open(out).network().layers) <= report["layers_converted"]
    config = Bundle.open(out).manifest.config
    assert (config.limits.max_input_len, config.limits.max_seq_len) == (512, 512)  # the model's max_position_embeddings


def test_graphs_before_and_after_each_pass(tt_edge, checkpoint, out, tmp_path):
    graphs = tmp_path / "graphs"
    result = tt_edge("compile", checkpoint, "-o", out, "--dump-graphs", graphs, "--json", *LIMITS)
    assert result.status == 0
    passes = [record["name"] for record in json.loads(result.out)["passes"]]
    assert [folder.name for folder in graphs.iterdir()] == ["decoder"]
    number = passes.index("insert_kv_cache") + 1
    before, after = (
        (graphs / f"decoder/{number:02}-insert_kv_cache.{when}.txt").read_text() for when in ("before", "after")
    )
    assert "tt_edge.attention.default(" in before
    assert "tt_edge.attention.default(" not in after
    assert "tt_edge.kv_cache_update.default(past_key_0, " in after
    assert not list((graphs / "decoder").glob("*check_token_independence*"))  # it changes nothing
    page = Path(__file__).parents[2] / "docs/extend/debug_a_compile.md"
    assert f"decoder/{number:02}-insert_kv_cache.before.txt" in page.read_text(), "the page names this file"
    other = out.with_name("other.ttedge")
    tt_edge("compile", checkpoint, "-o", other, "--dump-graphs", graphs, *LIMITS).fails_with(
        f"{graphs} is not an empty folder; name a new or empty one for the graphs", 2
    )
    assert not other.exists()


def test_overwrite(tt_edge, checkpoint, bundle):
    old = (bundle / "manifest.json").read_bytes()
    tt_edge("compile", checkpoint, "-o", bundle, *LIMITS).fails_with(
        f"{bundle} exists already; give --overwrite or another --output", 2
    )
    assert (bundle / "manifest.json").read_bytes() == old
    assert tt_edge("compile", checkpoint, "-o", bundle, "--overwrite", "--full-logits", *LIMITS).status == 0
    assert Bundle.open(bundle).manifest.config.network.full_logits
    assert list(bundle.parent.iterdir()) == [bundle]


BAD_OPTIONS = [
    (
        ("--engine", "foo"),
        "engine target 'foo' is not of the form sm89; give e.g. --engine sm89,sm120, local or none",
        2,
    ),
    (("--engine", "sm999"), "has no target sm999; it has sm", 1),
    (("--engine", ""), "engine target '' is empty", 2),
    (("--precision", "fp64"), "precision 'fp64' is unknown; choose one of fp16, bf16, fp32", 2),
    (("--backend", "magic"), "backend 'magic' is unknown; choose one of native", 2),
    (("--logits", "top-k=0"), "top_logits is 0; it must be an integer of at least 1", 2),
    (("--logits", "top-k=3840"), "top_logits is 3840; TensorRT selects at most 3839", 2),
    (("--logits", "top-k=64", "--full-logits"), "give --logits top-k=K or --full-logits", 2),
    (("--logits", "top-k"), "--logits 'top-k' is none of last, all and top-k=K; give e.g. --logits top-k=64", 2),
    (("--logits", "top-k=9", "--layout", "edge-llm", "--backend", "plugin"), "omit --logits", 2),
    (("--max-batch", 0), "max_batch is 0; it must be an integer of at least 1", 2),
    (("--max-seq-len", 0), "max_seq_len is 0; it must be an integer of at least 1", 2),
    (
        ("--max-seq-len", 32, "--max-input-len", 64),
        "max_input_len 64 exceeds max_seq_len 32; raise --max-seq-len or lower --max-input-len",
        2,
    ),
    (
        ("--max-seq-len", 4096),
        "max_seq_len 4096 exceeds the 512 tokens that the model was made for; compile with --max-seq-len 512 or less",
        2,
    ),
]


@pytest.mark.parametrize(("options", "message", "status"), BAD_OPTIONS, ids=[str(o) for o, _, _ in BAD_OPTIONS])
def test_bad_options(tt_edge, checkpoint, out, options, message, status):
    tt_edge("compile", checkpoint, "-o", out, *options).fails_with(message, status)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["missing folder", "file in its place", "folder in its place"])
def test_bad_outputs(tt_edge, checkpoint, tmp_path, kind):
    place = tmp_path / "place"
    output, message = place, "place is not a bundle, so it is not overwritten; give another --output"
    if kind == "missing folder":
        output, message = place / "out.ttedge", "place does not exist; create it or give another --output"
    elif kind == "file in its place":
        place.write_text("mine")
    else:
        place.mkdir()
    before = sorted(tmp_path.iterdir())
    tt_edge("compile", checkpoint, "-o", output, "--overwrite").fails_with(message, 2)
    assert sorted(tmp_path.iterdir()) == before


class TestSources:
    """What cannot be compiled."""

    @pytest.fixture
    def source(self, tmp_path):
        return tmp_path / "source"

    @pytest.fixture
    def refuses(self, tt_edge, source, out):
        def check(message: str, status: int = 2) -> None:
            tt_edge("compile", source, "-o", out, *LIMITS).fails_with(message, status)
            assert list(out.parent.iterdir()) == []

        return check

    def test_missing(self, refuses, source):
        refuses(f"checkpoint {source} does not exist; give a folder with config.json or a hub id")

    def test_a_file(self, refuses, source):
        source.write_text("weights")
        refuses(f"checkpoint {source} is a file; give the folder that holds config.json")

    def test_an_empty_folder(self, refuses, source):
        source.mkdir()
        refuses(f"checkpoint {source} has no config.json; give the folder of a Hugging Face model")

    def test_a_bundle(self, refuses, source, pristine):
        shutil.copytree(pristine, source)
        refuses(f"checkpoint {source} is a tt-edge bundle already; give the folder it was compiled from")

    def test_an_unknown_model_type(self, refuses, source, checkpoint):
        shutil.copytree(checkpoint, source)
        (source / "config.json").write_text('{"model_type": "unheard-of"}')
        refuses(
            f"checkpoint {source} is of model type 'unheard-of', which is not in transformers; give a checkpoint", 1
        )

    @pytest.mark.parametrize("config", ["{", "[]"])
    def test_a_malformed_config(self, refuses, source, checkpoint, config):
        shutil.copytree(checkpoint, source)
        (source / "config.json").write_text(config)
        refuses("again")

    def test_an_encoder(self, refuses, source):
        from transformers import BertConfig, BertForMaskedLM

        config = BertConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
        BertForMaskedLM(config).save_pretrained(source)
        refuses("the model has non-causal attention; the native backend compiles causal decoders", 1)

    def test_no_language(self, refuses, source):
        from transformers import ViTConfig

        ViTConfig().save_pretrained(source)
        refuses("model type 'vit' is neither a causal language model nor an encoder-decoder in transformers", 1)

    def test_no_weights(self, refuses, source, checkpoint):
        shutil.copytree(checkpoint, source)
        (source / "model.safetensors").unlink()
        refuses(f"checkpoint {source} does not load: Error no file named model.safetensors")

    def test_truncated_weights(self, refuses, source, checkpoint):
        shutil.copytree(checkpoint, source)
        weights = (source / "model.safetensors").read_bytes()
        (source / "model.safetensors").write_bytes(weights[:-1])
        refuses(f"checkpoint {source} does not load: ")

    @pytest.mark.parametrize("lost", [True, False])
    def test_a_weight_that_is_missing_or_of_another_shape_is_not_made_up(self, refuses, source, checkpoint, lost):
        from safetensors.torch import load_file, save_file

        shutil.copytree(checkpoint, source)
        weights, name = load_file(source / "model.safetensors"), "model.layers.1.mlp.up_proj.weight"
        weight = weights.pop(name)
        if not lost:
            weights[name] = weight[:5].clone()
        save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
        refuses(f"weight {name} is missing (1 in all)" if lost else f"weight {name} is [5, 128], and config.json")


def test_an_interrupt_leaves_nothing(tt_edge, checkpoint, out, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tt_edge.compile.checkpoint.load.load_model", interrupted)
    result = tt_edge("compile", checkpoint, "-o", out)
    assert (result.status, result.out, result.err) == (130, "", "tt-edge: interrupted\n")
    assert list(out.parent.iterdir()) == []


def test_a_failing_builder_leaves_nothing_and_keeps_the_old_bundle(tt_edge, checkpoint, bundle, monkeypatch):
    def failing(*arguments, **_):
        destination = arguments[4]
        destination.write(b"half an engine")
        raise EngineError("tensorrt_rtx cannot build this network for sm89: out of memory")

    monkeypatch.setattr("tt_edge.network.build_legal.build_engine", failing)
    before = (bundle / "manifest.json").read_bytes()
    result = tt_edge("compile", checkpoint, "-o", bundle, "--overwrite", "--engine", "sm89", "--json", *LIMITS)
    result.fails_with("cannot build this network for sm89: out of memory", 1)
    assert (bundle / "manifest.json").read_bytes() == before
    assert list(bundle.parent.iterdir()) == [bundle]
    assert Bundle.open(bundle).verify() == []
