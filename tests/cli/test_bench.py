"""`tt-edge bench` of a bundle; tests/server/test_bench.py has servers."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import MAX_BATCH, MAX_SEQ_LEN

pytestmark = pytest.mark.xdist_group("cli")


def test_beside_pytorch(tt_edge, pristine, checkpoint, tmp_path):
    file = tmp_path / "bench.json"
    sizes = ("--isl", 8, "--osl", 4, "--runs", 2, "--batch", 2)
    result = tt_edge("bench", pristine, *sizes, "--against", "hf", "--model", checkpoint, "-o", file)
    assert result.status == 0
    assert result.out.startswith("2 x 8 input tokens, 4 new, 2 runs after 1\n\nevaluated by the reference session\n")
    assert "these times say nothing about TensorRT's speed" in result.out
    ours, theirs = json.loads(file.read_text())["measured"]
    assert theirs["what"].startswith("PyTorch ")
    for row in (ours, theirs):
        assert (row["requests"], row["input_tokens"], row["output_tokens"]) == (4, 32, 16)
        assert row["ms"]["ttft"]["p50"] > 0
        assert row["ms"]["itl"]["p99"] >= row["ms"]["itl"]["p50"] > 0
    assert (ours["is_reference"], theirs["is_reference"]) == (True, False)


def test_defaults_fit_the_bundle(tt_edge, pristine):
    facts = json.loads(tt_edge("bench", pristine, "--runs", 1, "--warmup", 0, "--json").out)
    assert facts["plan"] == f"1 x {MAX_SEQ_LEN // 2} input tokens, {MAX_SEQ_LEN // 2} new, 1 runs after 0"
    [row] = facts["measured"]
    assert row["output_tokens"] == MAX_SEQ_LEN // 2


def test_conversations_and_a_rate(tt_edge, pristine):
    found = tt_edge("bench", pristine, "--agentic", "--turns", 2, "--runs", 1, "--warmup", 0)
    assert found.status == 0
    assert "turn 2" in found.out
    assert "of the input reused from the cache" in found.out
    found = tt_edge("bench", pristine, "--rate", "inf", "--requests", 3, "--isl", 8, "--osl", 2, "--json")
    assert json.loads(found.out)["plan"] == "3 requests all at once, 8 input and 2 new tokens"


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        (["--isl", MAX_SEQ_LEN, "--osl", 2], f"make sequences of {MAX_SEQ_LEN + 2} tokens, more than max_seq_len", 1),
        (["--batch", MAX_BATCH + 1], f"--batch is {MAX_BATCH + 1}, and the bundle has {MAX_BATCH} slots", 1),
        (["--runs", 0], "--runs is 0; a benchmark needs at least 1", 2),
        (["--isl", 0], "--isl is 0; a benchmark needs at least 1", 2),
        (["--agentic", "--osl", 0], "--osl is 0; a benchmark needs at least 2", 2),
        (["--agentic", "--turns", 1], "--turns is 1; a conversation has at least 2", 2),
        (["--turns", 3], "--turns and --prefix-tokens are for conversations; give --agentic", 2),
        (["--rate", -1], "--rate is -1; give requests per second above 0", 2),
        (["--rate", 1, "--arrivals", "never"], "--arrivals is 'never'; give one of poisson, constant, burst", 2),
        (["--rate", 1, "--against", "hf"], "--against hf runs the prompts of one batch; omit --rate", 2),
        (["--isl-dist", "lognormal:0.5"], "--isl-dist and --osl-dist are for requests at a rate", 2),
        (["--rate", 1, "--runs", 3], "--runs is for requests that start together; omit it, and give --requests", 2),
        (["--rate", 1, "--burst", 3], "--burst is for --arrivals burst; give it too, or omit --burst", 2),
        (["--requests", 3], "--arrivals, --requests and --burst are for requests at a rate; give --rate too", 2),
        (["--rate", 1, "--image-tokens", 4], "--image-tokens is for requests that start together; omit --rate", 2),
        (["--endpoint", "chat"], "--endpoint is for --server; omit it", 2),
        (["--timeout", "5"], "--timeout is for --server; omit it", 2),
        (["--image-tokens", 4, "--batch", 2, "--against", "hf"], "one prompt with an image at a time; omit --batch", 2),
        (["--model", "x"], "--model is for --against hf or --server", 2),
        (["--server", "http://localhost:1"], "give a bundle or --server, one of the two", 2),
        (["-o", "/nowhere/bench.json"], "--output /nowhere/bench.json cannot be written; give a file in a folder", 2),
        (["-o", "/"], "--output / cannot be written; give a file in a folder that exists", 2),
    ],
)
def test_bad_options(tt_edge, pristine, options, message, status):
    result = tt_edge("bench", pristine, "--runtime", "reference", *options)
    result.fails_with(message, status)
