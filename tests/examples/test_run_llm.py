"""run_llm.py as people run it."""

from __future__ import annotations

import re

import pytest

from examples import run_llm
from examples.tiny_checkpoint import make_checkpoint
from tt_edge.bundle import Bundle
from tt_edge.config.quantization import QuantConfig

PROMPT = ["--prompt", "The light ahead is", "--num_tokens", "12"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run_llm") / "tiny"
    make_checkpoint(folder, steps=60)
    return str(folder)


@pytest.mark.parametrize(
    "backend",
    [
        ["native", "--precision", "FP32"],
        ["sdpa", "--precision", "FP32"],
        ["sdpa", "--cache", "static_v1", "--precision", "BF16"],
        ["sdpa", "--cache", "static_v2"],
        ["plugin"],
    ],
    ids="-".join,
)
def test_the_familiar_page(tiny, capsys, backend):
    assert run_llm.main(["--model", tiny, "--backend", *backend, *PROMPT, "--enable_pytorch_run"]) == 0
    page = capsys.readouterr().out
    torch_part, trt_part = page.split("========= PyTorch =========")[1].split("========= TensorRT =========")
    assert torch_part.splitlines()[1] == trt_part.splitlines()[1]
    assert trt_part.splitlines()[1].startswith(PROMPT[1])
    assert "(evaluated by the reference session)" in trt_part
    assert "PyTorch and TensorRT outputs match: True" in page


def test_a_bundle_is_kept_and_run_again(tiny, tmp_path, capsys):
    bundle = str(tmp_path / "kept.ttedge")
    assert run_llm.main(["--model", tiny, *PROMPT, "--output", bundle, "--engine", "sm89", "--tokenizer", tiny]) == 0
    first = capsys.readouterr().out
    assert "sm89" in first
    assert "outputs match" not in first
    assert run_llm.main(["--from_bundle", bundle, "--model", tiny, *PROMPT, "--enable_pytorch_run"]) == 0
    again = capsys.readouterr().out
    matches = "PyTorch and TensorRT prompts match: True (4 tokens)\nPyTorch and TensorRT outputs match: True\n"
    assert first.split("TensorRT =========")[1] + matches == again.split("TensorRT =========")[1]


def test_the_benchmark_has_a_row_for_each(tiny, capsys):
    sizes = ["--isl", "16", "--num_tokens", "3", "--batch_size", "2", "--iterations", "2"]
    assert run_llm.main(["--model", tiny, "--benchmark", *sizes, "--enable_pytorch_run"]) == 0
    *_, title, heads, theirs, ours = capsys.readouterr().out.splitlines()
    assert title == "2 x 16 input tokens, 3 new, median of 2 runs"
    assert "prefill ms   TTFT ms   TPOT ms  tokens/s  peak MiB" in heads
    for line, what in ((theirs, "PyTorch"), (ours, "evaluated by the reference session")):
        numbers = [float(n.replace(",", "")) for n in re.findall(r"[\d.,]+", line)[:5]]
        assert all(number > 0 for number in numbers)
        assert what in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to run; give --model or --from_bundle"),
        (["--from_bundle", "x", "--enable_pytorch_run"], "--enable_pytorch_run needs the checkpoint"),
        (["--model", "x", "--cache", "static_v1"], "--cache is for the sdpa backend, not native"),
        (["--model", "x", "--quant_algo", "max"], "--quant_algo and --weight_only need --quant_format"),
        (["--model", "x", "--weight_only"], "--quant_algo and --weight_only need --quant_format"),
        (["--model", "x", "--quant_format", "fp8", "--weight_only"], "fp8 has no --quant_algo None with --weight_only"),
        (
            ["--model", "x", "--quant_format", "nvfp4", "--quant_algo", "smoothquant"],
            "nvfp4 has no --quant_algo smoothquant",
        ),
        (["--from_bundle", "x", "--quant_format", "fp8"], "a bundle is quantized when it is compiled"),
        (["--model", "./nowhere"], "checkpoint ./nowhere does not exist"),
        (["--model", "x", "--num_tokens", "0"], "must be at least 1"),
        (["--model", "TINY", "--benchmark", "--num_tokens", "1", "--isl", "4"], "num_tokens is 1"),
        (["--model", "TINY", "--backend", "plugin", "--precision", "BF16"], "AttentionPlugin computes in fp16 only"),
        (["--model", "TINY", "--max_seq_len", "9999"], "max_seq_len 9999 exceeds the"),
    ],
)
def test_bad_input_is_one_line(tiny, capsys, arguments, message):
    assert run_llm.main([tiny if a == "TINY" else a for a in arguments]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("run_llm.py: error: ")


@pytest.mark.parametrize(
    ("options", "format"),
    [
        (["--quant_format", "fp8"], "fp8"),
        (["--quant_format", "int8"], "int8_sq"),
        (["--quant_format", "int8", "--weight_only"], "int8_wo"),
        (["--quant_format", "nvfp4", "--quant_algo", "max"], "nvfp4"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_quantized(tiny, tmp_path, capsys, options, format):
    bundle = tmp_path / "q.ttedge"
    assert run_llm.main(["--model", tiny, *PROMPT, *options, "--output", str(bundle)]) == 0
    assert f"quant    {format}: " in capsys.readouterr().out
    assert Bundle.open(bundle).manifest.config.quantization.recipe == QuantConfig(format)
