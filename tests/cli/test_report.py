"""`tt-edge report`: the page, what a hostile bundle cannot do to it, and the graph."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.cli.conftest import MAX_SEQ_LEN

pytestmark = pytest.mark.xdist_group("cli")
pytest.importorskip("matplotlib")

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)> $x_{{7*7}}$'
EVALUATION = [
    {
        "bundle": "a",
        "format": "fp16",
        "weight_bytes": 3_900_000,
        "word": "evaluated by the reference session",
        "network": {"right": 9, "asked": 10, "perplexity": 1.0, "bits_per_byte": 0.25, "exact": 0.9},
        "pytorch": {"right": 10, "asked": 10, "perplexity": 1.0, "bits_per_byte": 0.5, "exact": 1.0},
    },
    {"bundle": "b", "format": "nvfp4", "weight_bytes": None, "network": {"asked": 10, "exact": 0.8}, "pytorch": None},
]
BENCHMARK = {
    "benchmark": "a.ttedge",
    "plan": "1 x 8 input tokens",
    "measured": [
        {
            "what": "evaluated by the reference session",
            "is_reference": True,
            "ms": {"ttft": {"mean": 12.5, "p50": 12.0, "p90": 13.0, "p99": 14.0}},
            "throughput": {"decode_tokens_per_s": 321.5},
        }
    ],
}


class Page(HTMLParser):
    """The elements and addresses of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.addresses.append(value)
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data):
        self.text.append(data)


def write(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


@pytest.fixture(scope="module")
def page(pristine, tmp_path_factory) -> str:
    from tt_edge.cli import main

    folder = tmp_path_factory.mktemp("report")
    files = ["--eval", write(folder / "eval.json", EVALUATION), "--bench", write(folder / "bench.json", BENCHMARK)]
    assert main([str(a) for a in ("report", pristine, "-o", folder / "report.html", "--device", "thor", *files)]) == 0
    return (folder / "report.html").read_text()


def test_what_the_page_shows(page):
    text = " ".join(" ".join(Page(page).text).split())
    for fact in (
        "tiny.ttedge",
        "captured; run `tt-edge verify --model` to evaluate it",
        "Jetson AGX Thor (T5000)",
        f"{MAX_SEQ_LEN}, 2",
        "nvfp4",
        "90.00%",
        "1.0000",  # a perplexity is no share, whatever its value
        "0.2500",
        "321.5",
        "these times say nothing about TensorRT's speed",
        "decoder/weights.safetensors",
        "jetpack-7.2",
        "Seconds by stage",
        "lower",
        "block 0",
        "embeddings",
    ):
        assert fact in text, fact


def test_the_page_needs_nothing_else(page):
    parsed = Page(page)
    assert not parsed.tags & {"script", "link", "iframe", "object", "embed", "img", "form"}
    assert all(address.startswith("#") for address in parsed.addresses), "within the page only"
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers)), "several plots stand on the page"


def test_a_hostile_bundle_injects_nothing(tt_edge, bundle, tmp_path):
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in ("architecture", "model_type", "name", "source", "quantization"):
        manifest["model"][name] = EVIL
    manifest["created_by"] = EVIL
    manifest["evidence"] = [{"claim": EVIL, "word": "built", "detail": EVIL}]
    manifest["compile_seconds"] = {EVIL: 1.0, "build": 2.0}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    hostile = bundle.rename(tmp_path / "<img src=x onerror=alert(3)>.ttedge")
    rows = [{"bundle": EVIL, "format": EVIL, "network": {"asked": 1, EVIL: 0.5, "exact": 1.0}, "pytorch": None}]
    bench = json.loads(json.dumps(BENCHMARK).replace("evaluated by", json.dumps(EVIL)[1:-1]).replace("ttft", "<b>ttft"))
    given = ["--eval", write(tmp_path / "eval.json", rows), "--bench", write(tmp_path / "bench.json", bench)]
    assert (
        tt_edge("report", hostile, "-o", tmp_path / "report.html", "--graph", tmp_path / "g.json", *given).status == 0
    )
    page = (tmp_path / "report.html").read_text()
    parsed = Page(page)
    assert not parsed.tags & {"script", "img"}
    assert "<b>ttft" not in page
    assert parsed.handlers == []
    assert "".join(parsed.text).count("alert(1)") >= 8, "it is shown as text"
    assert "{{7*7}}" in page, "values are no templates"


def test_a_bundle_of_engines_only_is_shown(tt_edge, bundle, tmp_path):
    shutil.rmtree(bundle / "decoder")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = {name: r for name, r in manifest["files"].items() if not name.startswith("decoder/")}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    result = tt_edge("report", bundle, "-o", tmp_path / "r.html")
    assert result.status == 0, result.err
    assert "engines only" in (tmp_path / "r.html").read_text()
    tt_edge("report", bundle, "--graph", tmp_path / "g.json").fails_with("the bundle has engines only", 1)
    assert not (tmp_path / "g.json").exists()


def test_the_graph(tt_edge, pristine, tmp_path):
    assert tt_edge("report", pristine, "--graph", tmp_path / "g.json").status == 0
    collection = json.loads((tmp_path / "g.json").read_text())  # one object: the viewer refuses a list of them
    [graph] = collection["graphs"]
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert graph["id"] == "decoder"
    assert len(nodes) == len(graph["nodes"])
    labels = [node["label"] for node in nodes.values()]
    assert {"input_ids", "attention", "kv_cache_update", "matrix_multiply", "weight", "logits"} <= set(labels)
    for node in nodes.values():
        for edge in node["incomingEdges"]:
            source = nodes[edge["sourceNodeId"]]
            assert edge["sourceNodeOutputId"] in {out["id"] for out in source["outputsMetadata"]}
    product = next(
        n for n in nodes.values() if n["namespace"].endswith("self_attn/q_proj") and n["label"] == "matrix_multiply"
    )
    assert product["namespace"] == "layers.0/self_attn/q_proj"
    activation = next(node for node in nodes.values() if node["label"] == "activation")
    assert activation["namespace"] == "layers.0/mlp", "a layer without a module stands beside what it reads"
    assert len(product["incomingEdges"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to write; give --output HTML, --graph JSON, or both"),
        (["-o", "/nowhere/r.html"], "/nowhere/r.html cannot be written; give a file in a folder that exists"),
        (["-o", "TMP"], "cannot be written; give a file"),
        (["-o", "TMP/r.html", "--graph", "TMP/./r.html"], "--output and --graph are both "),
        (["-o", "TMP/r.html", "--device", "toaster"], "device 'toaster' is not known; choose from thor"),
        (["--graph", "TMP/g.json", "--eval", "TMP/bad.json"], "--eval, --bench and --device are for the page"),
        (["-o", "TMP/r.html", "--eval", "TMP/none.json"], "none.json cannot be read"),
        (["-o", "TMP/r.html", "--eval", "TMP/bad.json"], "bad.json has no rows of an evaluation"),
        (["-o", "TMP/r.html", "--bench", "TMP/bad.json"], "bad.json is not a benchmark (KeyError: 'benchmark')"),
        (["-o", "TMP/r.html", "--bench", "TMP/text.json"], "text.json cannot be read"),
        (
            ["-o", "TMP/r.html", "--bench", "TMP/words.json"],
            "words.json is not a benchmark (TypeError: 'nan' is no number)",
        ),
        (["-o", "TMP/r.html", "--eval", "TMP/huge.json"], "huge.json cannot be read (it has the number 1000"),
    ],
)
def test_bad_input(tt_edge, pristine, tmp_path, options, message):
    write(tmp_path / "bad.json", {"rows": [1, {"network": 3}]})
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "huge.json").write_text(json.dumps(EVALUATION).replace("0.9", f"1{'0' * 400}"))
    (tmp_path / "words.json").write_text(json.dumps(BENCHMARK).replace("12.5", '"nan"'))
    tt_edge("report", pristine, *(str(o).replace("TMP", str(tmp_path)) for o in options)).fails_with(message, 2)
    assert not (tmp_path / "r.html").exists()


chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_in_a_browser(page, tmp_path):
    """On a phone nothing but tables scrolls sideways; nothing is requested; plots have a size."""
    playwright = pytest.importorskip("playwright.sync_api")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    (tmp_path / "report.html").write_text(page)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        problems, requests = [], []
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto((tmp_path / "report.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        sizes = tab.evaluate("[...document.querySelectorAll('svg')].map(s => [s.clientWidth, s.clientHeight])")
        assert len(sizes) == 4  # accuracy, bytes, memory, compile time; a bundle in fp32 has no prediction
        assert all(200 < width <= 390 and height > 60 for width, height in sizes)
        assert (problems, len(requests)) == ([], 1)
        browser.close()
