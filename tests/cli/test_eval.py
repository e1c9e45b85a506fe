"""tt-edge eval: bundles and PyTorch side by side on the trained model; and the path of a quantized compile to it."""

from __future__ import annotations

import json

import pytest

from examples.driving_qa.evaluate import CHECKPOINT
from examples.driving_qa.questions import examples
from examples.road_scenes import evaluate as road_scenes
from tests.evaluation.data_files import write_mmmu
from tt_edge.cli import main
from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.formats.questions import read_questions

LIMITS = ["--max-batch", "16", "--max-input-len", "128", "--max-seq-len", "192"]


def rows(split, count):
    return [{"messages": e.messages, "answer": e.answer} for e in examples(split, count, 0)]


def write(file, lines):
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return str(file)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """In fp16 and int8, calibrated on questions of the training split."""
    folder = tmp_path_factory.mktemp("eval")
    data = write(folder / "train.jsonl", rows("train", 48))
    for name, options in {"fp16": [], "int8": ["--quant", "int8_sq", "--calib-data", data]}.items():
        out = str(folder / f"{name}.ttedge")
        assert main(["compile", str(CHECKPOINT), "-o", out, *LIMITS, *options, "--json"]) == 0
    return folder


def test_side_by_side(bundles, tmp_path, capsys):
    data = write(tmp_path / "test.jsonl", rows("test", 60))
    asked = [str(bundles / "fp16.ttedge"), str(bundles / "int8.ttedge"), "--data", data, "--count", "45"]
    assert main(["eval", *asked, "--model", str(CHECKPOINT), "--json"]) == 0
    half, int8 = json.loads(capsys.readouterr().out)
    assert (half["format"], int8["format"]) == ("fp16", "int8_sq")
    assert half["network"]["asked"] == 45
    assert int8["weight_bytes"] < 0.6 * half["weight_bytes"]
    for row in (half, int8):  # the network answers as PyTorch, quantized in the same way, does
        assert row["network"]["exact"] >= 0.95
        assert abs(row["network"]["right"] - row["pytorch"]["right"]) <= 1
        assert row["network"]["perplexity"] == pytest.approx(row["pytorch"]["perplexity"], rel=2e-3)


def test_the_table(bundles, tmp_path, capsys):
    data = write(tmp_path / "test.jsonl", rows("test", 6))
    assert main(["eval", str(bundles / "fp16.ttedge"), "--data", data]) == 0
    head, row, words = capsys.readouterr().out.splitlines()
    assert head.split() == ["format", "weights", "MB", "exact", "delta", "perplexity"]
    assert row.split()[0] == "fp16"
    assert words == "6 questions; evaluated by the reference session"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"messages": [], "answer": 3}', "answer is not a string"),
        ('{"answer": "x"}', "KeyError: 'prompt'"),
        ('{"prompt": 7, "answer": "x"}', "prompt is not a string"),
        ("not json", "is not a question"),
        ("[" * 100_000, "is not a question"),
        ('{"prompt": "a", "answer": "b", "images": "c.png"}', "jsonl:1: images is 'c.png'; give a list of file names"),
        ("", "has no questions"),
    ],
)
def test_bad_questions(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_text(content + "\n")
    with pytest.raises(InvalidInputError, match=message) as caught:
        read_questions(tmp_path / "a.jsonl")
    assert "\n" not in str(caught.value)


def test_refused(bundles, tmp_path, capsys):
    data = write(tmp_path / "a.jsonl", rows("test", 1))
    bundle = str(bundles / "fp16.ttedge")
    for options, message in [
        ([bundle, "--data", str(tmp_path / "none.jsonl")], "cannot be read"),
        ([bundle, "--data", data, "--count", "0"], "--count is 0; give at least 1"),
        ([str(tmp_path / "none.ttedge"), "--data", data], "does not exist"),
        ([bundle, "--data", data, "--model", "./nowhere", "--output", str(tmp_path / "out")], "nowhere does not exist"),
    ]:
        assert main(["eval", *options]) != 0
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists(), "nothing is asked before all is there"


def test_verify_quantizes_the_checkpoint_in_the_same_way(bundles, capsys):
    bundle = str(bundles / "int8.ttedge")
    assert main(["verify", bundle, "--model", str(CHECKPOINT), "--new-tokens", "8"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "match" in page
    assert "DO NOT" not in page
    assert main(["inspect", bundle]) == 0
    page = capsys.readouterr().out
    assert "linear layers int8_sq" in page
    assert "int8 " in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quant", "int3"], "quantization 'int3' is unknown; choose one of"),
        (["--quant", "fp8", "--engine", "sm86"], "fp8 needs compute capability sm89 or later, not sm86"),
        (["--quant", "nvfp4", "--engine", "sm89"], "nvfp4 needs compute capability sm100 or later, not sm89"),
        (["--quant", "int4_wo", "--quant-group-size", "100"], "group size 100 of INT4"),
        (["--quant", "int8_sq", "--calib-data", "/none.jsonl"], "/none.jsonl does not exist"),
        (["--quant-layers", "*.mlp.*"], "give PATTERN=FORMAT"),
        (["--kv-cache", "fp8"], "kv_cache fp8 is not for backend native"),
        (["--int4-gemm", "plugin"], "int4_gemm plugin is not for backend native"),
        (["--max-image-tokens", "64"], "Qwen2ForCausalLM takes no images; omit --max-image-tokens"),
    ],
)
def test_a_wrong_compile_leaves_nothing(tmp_path, capsys, options, message):
    assert main(["compile", str(CHECKPOINT), "-o", str(tmp_path / "out.ttedge"), *options]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "target", "backend"),
    [("fp8", "sm89", "native"), ("nvfp4", "sm120", "sdpa"), ("int4_wo", "sm86", "native"), ("int8_wo", "sm86", "sdpa")],
)
def test_engines_of_every_format(tmp_path, capsys, format, target, backend):
    """Formats with the other backend, and with other models: tests/compile/backends/test_capabilities.py."""
    out, group = str(tmp_path / "out.ttedge"), ["--quant-group-size", "32"] if format == "int4_wo" else []
    cache = ["--cache", "static_v2"] if backend == "sdpa" else []
    options = ["--quant", format, *group, "--engine", target, "--backend", backend, *cache, "--single-profile", *LIMITS]
    options += ["--calib-samples", "4"]
    assert main(["compile", str(CHECKPOINT), "-o", out, *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["engines"][0]["compute_capability"] == target
    assert report["quantized_layers"] == {format: 21}


@pytest.fixture(scope="module")
def road_bundles(tmp_path_factory):
    """The language part quantized or not."""
    folder = tmp_path_factory.mktemp("road")
    limits = ["--max-batch", "8", "--max-input-len", "192", "--max-seq-len", "256", "--max-image-tokens", "144"]
    for name, options in {"fp16": [], "int8_wo": ["--quant", "int8_wo"]}.items():
        out = str(folder / f"{name}.ttedge")
        assert main(["compile", str(road_scenes.CHECKPOINT), "-o", out, *limits, *options, "--json"]) == 0
    return folder


def test_questions_with_pictures(road_bundles, tmp_path, capsys):
    """Beside PyTorch quantized in the same way."""
    data = str(road_scenes.write_jsonl(tmp_path, road_scenes.examples("test", 40, 0)))
    asked = [str(road_bundles / "fp16.ttedge"), str(road_bundles / "int8_wo.ttedge"), "--data", data]
    assert main(["eval", *asked, "--model", str(road_scenes.CHECKPOINT), "--json"]) == 0
    for row in json.loads(capsys.readouterr().out):
        assert row["network"]["exact"] >= 0.95
        assert abs(row["network"]["right"] - row["pytorch"]["right"]) <= 1
        assert row["network"]["perplexity"] == pytest.approx(row["pytorch"]["perplexity"], rel=2e-3)


def test_mmmu(road_bundles, tmp_path, capsys):
    """One image, two in another order, an open question, and an image of another row; the same texts as PyTorch's."""
    data, bundle = str(write_mmmu(tmp_path / "mmmu.tsv")), str(road_bundles / "fp16.ttedge")
    options = ["--task", "mmmu", "--data", data, "--max-new-tokens", "24", "--output", str(tmp_path / "out")]
    assert main(["eval", bundle, *options, "--model", str(road_scenes.CHECKPOINT)]) == 0
    page = capsys.readouterr().out
    assert "4 questions; evaluated by the reference session" in page
    assert "validation" in page
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    texts = {(line["model"], line["item"]): line["answer"]["text"] for line in lines}
    assert len(texts) == 8
    for item in "1234":
        ours, theirs = (text for (_, name), text in texts.items() if name == item)
        assert ours == theirs
    assert main(["eval", bundle, *options[:4], "--preset", "driveos"]) != 0
    assert "max_image_tokens of the bundle is 144, and the preset needs 6620; compile with --max-image-tokens 6620" in (
        capsys.readouterr().err
    )
