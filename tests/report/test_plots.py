"""Plots of a report: readable text, and never more of it than fits."""

from __future__ import annotations

import warnings
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

from tt_edge.report.plots import Plots
from tt_edge.report.weights import BlockBytes, MemoryLine
from tt_edge.roofline import DEVICES, Step, decoder_of_config, predict

SVG = "{http://www.w3.org/2000/svg}"
CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1024,
    "tie_word_embeddings": True,
}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_bars_have_their_names_and_values():
    found = texts(Plots().bars("Seconds", {"export <1>": 2.5, "$build$": 10.0, "日本": 1.0}, "s"))
    assert {"export <1>", "$build$", "日本", "2.5", "10", "s"} <= set(found)


def test_equal_plots_are_equal_text_and_nothing_is_printed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Plots().bars("a", {"\u0378 日本": 1.0}, "s") == Plots().bars("a", {"\u0378 日本": 1.0}, "s")


def test_many_bars_stay_a_picture():
    blocks = [BlockBytes(f"block {n}", {"float16": 1_000_000, "int8": 1}) for n in range(5000)]
    svg = Plots().bytes_by_block(blocks)
    found = texts(svg)
    assert "float16" in found
    assert "int8" not in found, "too few to be seen"
    assert len(found) < 80
    assert len(svg) < 400_000
    assert len(texts(Plots().bars("many", {str(n): 1.0 for n in range(10_000)}, "s"))) < 150


def test_memory():
    lines = [MemoryLine(batch, (256, 512), (10**6, 2 * 10**6)) for batch in (1, 2)]
    assert {"batch 1", "batch 2", "this bundle", "512"} <= set(texts(Plots().memory(lines, 512, 2)))


def test_roofline():
    operations, thor = decoder_of_config(CONFIG, "fp16"), DEVICES["thor"]
    steps = {
        "prefill": predict(operations, thor, Step(1, 512, 0)),
        "decode": predict(operations, thor, Step(1, 1, 512)),
    }
    found = texts(Plots().roofline(thor, steps))
    assert {"roof, fp16", "prefill, linear", "decode, attention", "FLOP per byte"} <= set(found)
    assert any("T" in text for text in found), "axes say 1 T and not a formula"
    assert not any("mathdefault" in text for text in found)
