"""Every family, backend and quantization on the real bindings of every release that a platform has.

Networks are captured once, here; each release replays them in a process of its own (``replay``). A call, property, enum
member or argument that the release lacks fails there. With ``TT_EDGE_BINDINGS=all`` every quantization is replayed with
every family; otherwise with one.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.bindings.releases import RELEASES, kept
from tests.bindings.replay_case import Case
from tests.compile.compiling import compiled, shared
from tests.compile.vision.test_vision_network import compiled as compiled_tower
from tests.models.tiny_models import FAMILIES, tiny_model
from tt_edge.bundle import Bundle
from tt_edge.compile.pipeline import compile_model
from tt_edge.config import CompileConfig, EngineTarget, Precision, QuantConfig, QuantFormat

pytestmark = pytest.mark.xdist_group("bindings")

ALL = os.environ.get("TT_EDGE_BINDINGS") == "all"
RUN = ("qwen2", "gemma2", "phi3")
LIMITS = {"max_batch": 3, "max_input_len": 64, "max_seq_len": 128}
WIDE = {"hidden_size": 128, "intermediate_size": 256}  # a multiple of an INT4 group
CACHES = ("none", "static_v1", "static_v2")
PLUGINS = ("0.4", "0.9.1", "0.10", "0.11")
TOWERS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "internvl", "blip-2", "eagle2")
QUANTIZED = [f for f in FAMILIES if f not in ("gpt2", "opt")] if ALL else ["qwen2"]
#: Quantization is of linear layers, which are alike in every family: one has them all, each format in other layers.
MIXED = {
    "*.q_proj": "fp8", "*.k_proj": "int8_sq", "*.v_proj": "int8_wo", "*.o_proj": "int4_wo",
    "*.gate_proj": "int4_awq", "*.up_proj": "fp8", "*.down_proj": "int8_sq",
}  # fmt: skip
RECIPES = {"mixed": QuantConfig(None, tuple(MIXED.items())), "nvfp4": QuantConfig(QuantFormat.NVFP4)}
ONE_FORMAT = {str(quant): QuantConfig(quant) for quant in QuantFormat}


def test_the_recipes_have_every_format():
    assert set().union(*(recipe.formats for recipe in RECIPES.values())) == set(QuantFormat)


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """A folder of captured networks, pickled."""
    folder = tmp_path_factory.mktemp("networks")

    def add(name, network, contract, runs=False):
        (folder / name.replace("/", "_")).write_bytes(pickle.dumps(Case(name, network, contract, runs)))

    # Precisions and limits are those of tests/compile/backends/test_families.py, which shares these networks.
    for family in FAMILIES:
        half = compiled(shared(family, Precision.FP16).model, Precision.FP16)
        add(f"{family}/native/in_place", half.network, half.contract)
        full = shared(family).model
        if family in RUN:
            made = compiled(full)
            add(f"{family}/run", made.network, made.contract, runs=True)
        for cache in CACHES if family == "qwen2" or ALL else ("static_v2",):
            made = compiled(full, backend="sdpa", cache=cache)
            add(f"{family}/sdpa/{cache}", made.network, made.contract)
    made = compiled(shared("llama").model, top_logits=8)
    add("llama/native/top_logits", made.network, made.contract)
    wide = tiny_model("qwen2", dtype=torch.float16, hidden_size=256, num_attention_heads=4)
    for version in PLUGINS:
        made = compiled(wide, Precision.FP16, backend="plugin", plugin_contract=version)
        add(f"qwen2/plugin/{version}", made.network, made.contract)
    for family in QUANTIZED:
        for name, recipe in (ONE_FORMAT if ALL else RECIPES).items():
            for backend, settings in (("native", {}), ("sdpa", {"cache": "static_v2"})):
                out = folder.parent / f"{family}-{name}-{backend}.ttedge"
                compile_model(
                    partial(tiny_model, family, dtype=torch.float16, **WIDE),
                    out,
                    CompileConfig.of(backend=backend, quant=recipe, **LIMITS, **settings),
                    EngineTarget(),
                    batches=[torch.randint(3, 300, (2, 16))],
                )
                bundle = Bundle.open(out)
                add(f"{family}/{backend}/{name}", bundle.network(), bundle.manifest.part("decoder"))
    for family in TOWERS:
        for attention in ("native", "plugin"):
            _, network, contract, _, _ = compiled_tower(family, "fp16", attention)
            add(f"{family}/tower/{attention}", network, contract)
    return folder


def replayed(release, cases, tmp_path):
    """What became of each case on a release's bindings."""
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "tests.bindings.replay", str(cases), str(results)]
    ran = subprocess.run(command, env=release.environment(), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(results.read_text())


@pytest.mark.parametrize("name", RELEASES)
def test_every_network_is_rebuilt_on_the_releases_own_bindings(cases, tmp_path, name):
    results = replayed(RELEASES[name], cases, tmp_path)
    release = tuple(int(part) for part in name.split("."))
    refused = {case: result["refused"] for case, result in results.items() if "refused" in result}
    # FP4 and dynamic quantization have no older form.
    without_fp4 = {case for case in results if case.endswith("/nvfp4")} if release < (10, 8) else set()
    assert refused.keys() == without_fp4, refused
    assert all("TensorRT 10.8 is the first to have" in reason for reason in refused.values())
    for case, result in results.items():
        if case in refused:
            continue
        kinds = result["layers"]
        assert ("add_attention_v2" in kinds) <= (release >= (11, 0)), case
        assert ("add_attention" in kinds) <= (release >= (10, 14)), case
        if "/native/" in case:
            assert result["in_place"] == (release >= (10, 15)), case
            assert ("add_kv_cache_update" in kinds) == (release >= (10, 15)), case
    ran = {case: result["tokens"] for case, result in results.items() if result.get("tokens")}
    assert ran == {f"{family}/run": 18 for family in RUN}


#: One of each kind: attention layers, plain attention, a cache through the network, quantized weights, a tower.
BUILT = (
    "qwen2/native/in_place", "gemma2/native/in_place", "gemma3/sdpa/static_v2", "qwen2/native/mixed", "qwen2/native/nvfp4",
    "qwen2_5_vl/tower/native",
)  # fmt: skip
RTX = "1.7.1.116"


@pytest.mark.heavy
def test_the_newest_tensorrt_rtx_builds(cases):
    """The pinned range ends with it; all other tests use the one that is installed, which is the first of the range."""
    # Its libraries are 95 MB. The package that users install re-exports the bindings under another name.
    libraries = kept("tensorrt-rtx-cu13-libs", RTX)
    bindings = kept(
        "tensorrt-rtx-cu13-bindings", RTX, lambda folder: (folder / "tensorrt_rtx").symlink_to("tensorrt_rtx_bindings")
    )
    path = os.pathsep.join(map(str, (bindings, libraries, Path(__file__).parents[2])))
    files = [str(cases / name.replace("/", "_")) for name in BUILT]
    command = [sys.executable, "-m", "tests.bindings.build_case", *files]
    ran = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    version, *lines = ran.stdout.splitlines()
    assert version == RTX
    assert [line.split(": ")[:2] for line in lines] == [[name, "as captured"] for name in BUILT]
