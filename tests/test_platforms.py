"""The table of platforms, the page that shows it, and what is said of networks on them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.network.legalize.test_rules import CASES
from tests.network.reference.building import NetworkBuilder
from tt_edge.config import CompileConfig, EngineTarget, QuantConfig, QuantFormat
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.network.legalize.serving import check_config, check_types, require_served, verdicts
from tt_edge.platforms import PLATFORMS, parse_platform
from tt_edge.tensorrt_features import ATTENTION, ATTENTION_LENGTHS, KV_CACHE_UPDATE

PAGE = Path(__file__).parents[1] / "docs" / "reference/platforms.md"


def rows() -> list[str]:
    """The table, as the page has it."""
    lines = ["| platform | TensorRT | CUDA | Python | GPU | attention | KV cache |", "|---|---|---|---|---|---|---|"]
    for platform in PLATFORMS.values():
        attention, cache = set(), set()
        for release in platform.releases:
            has = platform.features(release)
            newest = "layers with lengths" if ATTENTION_LENGTHS in has else "layers with a mask"
            attention.add(newest if ATTENTION in has else "matrix multiplies")
            cache.add("in place" if KV_CACHE_UPDATE in has else "through the network")
        gpus, note = (
            ", ".join(platform.compute_capabilities),
            f" ({platform.note})" if platform.note == "as installed" else "",
        )
        lines.append(
            f"| `{platform.name}`: {platform.title} | {platform.tensorrt}{note} | {platform.cuda} | {platform.python} | {gpus} | "
            f"{' or '.join(sorted(attention))} | {' or '.join(sorted(cache))} |"
        )
    return lines


def test_the_page_shows_the_table():
    page = PAGE.read_text()
    shown = page.split("<!-- table: platforms -->\n")[1].split("<!-- end -->")[0].splitlines()
    assert shown == rows()


@pytest.mark.parametrize("name", PLATFORMS)
def test_each_platform_has_a_page_with_its_facts_and_commands(name):
    """Every command is marked, and the table has the platform's own numbers."""
    pages = {page: page.read_text() for page in PAGE.with_suffix("").glob("*.md")}
    (text,) = (text for text in pages.values() if re.search(rf"^\|.*`{re.escape(name)}`", text, re.MULTILINE))
    (row,) = (line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line)
    platform = PLATFORMS[name]
    assert all(release in row for release in platform.releases)
    assert platform.python in row
    assert platform.compute_capabilities[0] in row
    assert f"--target {name}" in text or name == "x86"
    commands = [line for line in text.splitlines() if line.startswith("    ")]
    assert len(commands) >= 9
    assert all(line.endswith(("# ran", "# not run")) for line in commands)


@pytest.mark.parametrize(
    ("text", "releases", "gpus"),
    [
        ("jetpack-6.2", ("10.3.0",), ("sm87",)),
        ("JetPack-7.2+TensorRT-11.4", ("11.4",), ("sm110", "sm87")),
        ("jetpack-7.2+sm87", ("10.16.2",), ("sm87",)),
        ("tensorrt-10.13", ("10.13",), ()),
        ("tensorrt-11.4.1+sm87", ("11.4.1",), ("sm87",)),
    ],
)
def test_what_a_target_names(text, releases, gpus):
    platform = parse_platform(text)
    assert (platform.releases, platform.compute_capabilities) == (releases, gpus)
    assert EngineTarget(platforms=(text,)).platforms == (text,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jetson", r"target 'jetson' is unknown; give one of jetpack-6\.2, .*or a release such as tensorrt-10\.13"),
        ("tensorrt-8.6", r"has TensorRT 8\.6; tt-edge builds with 10\.3 and later"),
        ("jetpack-7.2+orin", "has 'orin'; give a release such as tensorrt-11.4, or a GPU such as sm87"),
        ("rtx+tensorrt-10.13", r"is of TensorRT-RTX; omit \+tensorrt-10\.13"),
        ("", "target '' is unknown"),
    ],
)
def test_what_is_no_target(text, message):
    with pytest.raises(InvalidInputError, match=message):
        EngineTarget(platforms=(text,))


def test_verdicts_on_a_network():
    network, _ = CASES["lower right, lengths"].network()
    found = {verdict.platform: str(verdict.form) for p in PLATFORMS.values() for verdict in verdicts([network], p)}
    assert found["jetpack-6.2"] == found["jetpack-7.1"] == "matrix multiplies and a softmax"
    assert found["jetpack-7.2"] == "attention layers with a mask"
    assert found["drive-os-7.2"] == found["rtx"] == "as captured"


def test_gpus_without_a_type():
    with pytest.raises(
        EngineError, match=r"jetpack-6\.2 cannot serve the bundle: float8_e4m3fn needs .*sm89 or later, not sm87"
    ):
        check_types({DType.FP8}, parse_platform("jetpack-6.2"))
    check_types({DType.FP8}, parse_platform("jetpack-7.2"))  # Thor can
    builder = NetworkBuilder()
    network = builder.output(builder.layer("CAST", [builder.input("x", DType.FLOAT16, (-1,))], DType.FP8, (-1,)))
    (verdict,) = verdicts([network], parse_platform("jetpack-7.2"))
    assert verdict.builds
    assert verdict.without == ("sm87",)
    with pytest.raises(EngineError, match=r"jetpack-7\.2\+sm87 \(TensorRT 10\.16\.2\) cannot serve the bundle: "):
        require_served([network], parse_platform("jetpack-7.2+sm87"))


@pytest.mark.parametrize(
    ("settings", "target", "message"),
    [
        (
            {"quant": "nvfp4"},
            "tensorrt-10.3",
            r"it lacks the element type FP4, which TensorRT 10\.8 is the first to have",
        ),
        ({"quant": "nvfp4"}, "jetpack-7.2+sm87", r"float4_e2m1fn needs compute capability sm100 or later, not sm87"),
        (
            {"quant": "int4_wo", "precision": "fp16"},
            "tensorrt-10.3+sm75",
            "int4 needs compute capability sm80 or later",
        ),
        ({"precision": "bf16"}, "tensorrt-11.4+sm75", "bfloat16 needs compute capability sm80 or later"),
        ({"backend": "plugin"}, "rtx", "TensorRT-RTX has no plugins; compile with --backend native"),
    ],
)
def test_what_a_configuration_alone_refuses(settings, target, message):
    quant = settings.pop("quant", None)
    config = CompileConfig.of(quant=quant and QuantConfig(QuantFormat(quant)), **settings)
    with pytest.raises(
        EngineError, match=rf"^{re.escape(target)}.* cannot serve the bundle: .*{message}.*omit --target"
    ):
        check_config(config, parse_platform(target))
    check_config(config, parse_platform("jetpack-7.2+tensorrt-11.4"))


def test_plugins_are_not_for_rtx():
    builder = NetworkBuilder()
    x = builder.input("x", DType.FLOAT16, (-1,))
    network = builder.output(builder.layer("PLUGIN_V3", [x], DType.FLOAT16, (-1,), plugin="P"))
    assert all("no plugins" in verdict.refused for verdict in verdicts([network], parse_platform("rtx")))
