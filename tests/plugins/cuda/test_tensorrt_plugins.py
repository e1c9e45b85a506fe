"""libtt_edge_plugin.so: TensorRT-RTX's registry loads it without a GPU, and its plugins' own enqueue computes on one."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.plugins.cuda.reference import FP16, INT8, Case, Run
from tt_edge.errors import MissingDependencyError
from tt_edge.plugins.cuda.build import PLUGINS, Unit, compile_unit, find_headers, find_nvcc
from tt_edge.plugins.cuda.library import find_kernels, load_kernels
from tt_edge.plugins.cuda.tensors import stream_of
from tt_edge.plugins.edgellm.contracts import GENERATIONS
from tt_edge.plugins.edgellm.int4_packing import dequantize, pack
from tt_edge.plugins.edgellm.own_library import PLUGIN_LIBRARY

#: TensorRT's codes of element types.
CODES = {torch.float32: 0, FP16: 1, INT8: 2, torch.int32: 3, torch.float8_e4m3fn: 6, torch.bfloat16: 7}

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA GPU here")]


@pytest.fixture(scope="module")
def headers() -> Path:
    if (found := find_headers()) is None:
        pytest.skip("TensorRT's headers are not here; name them in $TT_EDGE_TENSORRT_INCLUDE")
    try:
        find_nvcc()
    except MissingDependencyError as missing:
        pytest.skip(str(missing))
    return found


@pytest.fixture(scope="module")
def library() -> Path:
    """The library that `tt-edge plugin build` made beside the kernels."""
    try:
        found = find_kernels().with_name(PLUGIN_LIBRARY)
    except MissingDependencyError as missing:
        pytest.skip(str(missing))
    if not found.is_file():
        pytest.skip(f"no {found}; run `tt-edge plugin build --trt-include DIR`")
    return found


@pytest.fixture(scope="module")
def harness(headers: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("enqueue")
    output = folder / "enqueue.so"
    nvcc = str(find_nvcc())
    source = str(Path(__file__).with_name("enqueue.cpp"))
    options = ["-shared", "-Xcompiler=-fPIC,-Wno-deprecated-declarations", "-cudart=none", f"-I{headers}"]
    subprocess.run([nvcc, *options, source, "-o", str(output), "-ldl"], check=True)
    loaded = ctypes.CDLL(str(output))
    loaded.create.restype = ctypes.c_void_p
    loaded.refused.restype = loaded.workspace.restype = ctypes.c_int64
    return loaded


class Plugin:
    """A plugin object, created and attached."""

    def __init__(self, harness: ctypes.CDLL, library: Path, name: str, **fields: float) -> None:
        self._harness = harness
        names = (ctypes.c_char_p * len(fields))(*(field.encode() for field in fields))
        floats = (ctypes.c_int * len(fields))(*(isinstance(value, float) for value in fields.values()))
        values = b"".join(
            np.float32(value).tobytes() if isinstance(value, float) else np.int32(value).tobytes()
            for value in fields.values()
        )
        self._plugin = harness.create(str(library).encode(), name.encode(), len(fields), names, floats, values)

    @property
    def exists(self) -> bool:
        return bool(self._plugin)

    def _describe(self, tensors: Sequence[Tensor]) -> tuple[Any, Any, Any]:
        types = (ctypes.c_int * len(tensors))(*(CODES[x.dtype] for x in tensors))
        ranks = (ctypes.c_int * len(tensors))(*(x.ndim for x in tensors))
        dims = (ctypes.c_int64 * (8 * len(tensors)))()
        for i, x in enumerate(tensors):
            dims[8 * i : 8 * i + x.ndim] = list(x.shape)
        return types, ranks, dims

    def refused(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
        described = self._describe([*inputs, *outputs])
        return int(self._harness.refused(ctypes.c_void_p(self._plugin), len(inputs), len(outputs), *described))

    def prepare(self, inputs: Sequence[Tensor]) -> None:
        described, plugin = self._describe(inputs), ctypes.c_void_p(self._plugin)
        size = int(self._harness.workspace(plugin, len(inputs), *described))
        self._space = torch.full((max(size, 16),), 255, dtype=torch.uint8, device="cuda")
        assert self._harness.shapes(plugin, len(inputs), *described) == 0

    def enqueue(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
        ins = (ctypes.c_void_p * len(inputs))(*(x.data_ptr() for x in inputs))
        outs = (ctypes.c_void_p * len(outputs))(*(x.data_ptr() for x in outputs))
        space, stream = ctypes.c_void_p(self._space.data_ptr()), ctypes.c_void_p(stream_of(inputs[0]))
        described = self._describe(inputs)
        plugin = ctypes.c_void_p(self._plugin)
        return int(self._harness.enqueue(plugin, len(inputs), *described, ins, outs, space, stream))

    def __del__(self) -> None:
        if self.exists:
            self._harness.destroy(ctypes.c_void_p(self._plugin))


def attention_of(harness: ctypes.CDLL, library: Path, case: Case, **more: float) -> Plugin:
    fields = {"num_q_heads": case.heads[0], "num_kv_heads": case.heads[1], "head_size": case.head_size}
    flags = {"enable_tree_attention": int(case.tree), "enable_attention_sink": int(case.sinks)}
    numbers = {"attention_scale": case.head_size**-0.5, "softcap": float(case.softcap)}
    return Plugin(harness, library, "Attention", **fields, **flags, sliding_window_size=case.window, **numbers, **more)


CASES = [
    Case(past=(700, 3), fresh=(1, 1), heads=(14, 2)),
    Case(past=(3000,), fresh=(1,), heads=(32, 8), head_size=128, window=1000, softcap=30.0),
    Case(past=(700, 3, 0), fresh=(1, 0, 1), cache_dtype=INT8, sinks=True),
    Case(past=(100, 0), fresh=(130, 77), heads=(8, 2), head_size=96),
    Case(past=(100, 0), fresh=(130, 77), cache_dtype=torch.float8_e4m3fn, dtype=torch.bfloat16, sinks=True),
    Case(past=(777, 20), fresh=(40, 40), tree=True, sinks=True),
]


@pytest.mark.parametrize("case", [pytest.param(case, marks=gpu, id=str(case)) for case in CASES])
def test_attention(harness: ctypes.CDLL, library: Path, case: Case) -> None:
    """The output and the cache are the C interface's, which test_attention_kernels.py compares with float64."""
    run = Run(load_kernels(), case)
    packed = torch.cat([run.q, run.k, run.v], 2).flatten(2)
    cache = run.before.clone()
    call = run.call
    inputs = [packed, cache, call.past_lengths, call.query_lengths, run.rope]
    if case.tree:
        inputs += [call.tree_mask, call.positions]
    if case.sinks:
        inputs.append(run.sinks)
    out = torch.full_like(run.q, torch.nan, memory_format=torch.contiguous_format)
    plugin = attention_of(harness, library, case, k_scale=run.k_scale, v_scale=run.v_scale)
    assert plugin.exists
    assert plugin.refused(inputs, [out, cache]) == 0
    plugin.prepare(inputs)
    assert plugin.enqueue(inputs, [out, cache]) == 0
    expected = call.run()
    torch.cuda.synchronize()
    # The plugin's workspace allows for other splits than the call's, so that sums may be in another order.
    torch.testing.assert_close(out, expected, rtol=2e-3, atol=2e-3 if case.dtype == FP16 else 2e-2)
    as_int = torch.uint8 if cache.element_size() == 1 else torch.int16
    assert torch.equal(cache.view(as_int), call.cache.view(as_int))
    # In a graph, on the same cache.
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        assert plugin.enqueue(inputs, [out, cache]) == 0
    first = out.clone()
    out.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, first)


DROP_IN = [
    Case(past=(700, 3), fresh=(1, 1), heads=(14, 2)),
    Case(past=(100, 0), fresh=(130, 77), heads=(8, 2), head_size=128, window=50),
    Case(past=(0, 0), fresh=(130, 77)),
]


@pytest.mark.parametrize("case", [pytest.param(case, marks=gpu, id=str(case)) for case in DROP_IN])
def test_attention_under_nvidias_name(harness: ctypes.CDLL, library: Path, case: Case) -> None:
    """AttentionPlugin with the inputs of contract 0.9.1, as a session feeds them."""
    run = Run(load_kernels(), case.with_(packed=False))
    call, cache = run.call, run.before.clone()
    decode = run.q.shape[1] == 1
    past, fresh = (torch.tensor(x, dtype=torch.int32, device="cuda") for x in (case.past, case.fresh))
    starts = past if any(case.past) else past[:0]
    lengths = past + 1 if decode else fresh
    q, k, v = (x.flatten(2).contiguous() for x in (run.q, run.k, run.v))
    inputs = [q, k, v, cache, lengths, run.rope, starts]
    fields = {"num_q_heads": case.heads[0], "num_kv_heads": case.heads[1], "head_size": case.head_size}
    flags = {"enable_tree_attention": 0, "enable_fp8_kv_cache": 0, "enable_vision_block_attention": 0}
    window = case.window or -1
    scale = case.head_size**-0.5
    plugin = Plugin(
        harness, library, "AttentionPlugin", **fields, **flags, sliding_window_size=window, attention_scale=scale
    )
    assert plugin.exists
    out = torch.full_like(run.q, torch.nan, memory_format=torch.contiguous_format)
    assert plugin.refused(inputs, [out, cache]) == 0
    plugin.prepare(inputs)
    assert plugin.enqueue(inputs, [out, cache]) == 0
    expected = call.run()
    torch.cuda.synchronize()
    torch.testing.assert_close(out, expected, rtol=2e-3, atol=2e-3)
    assert torch.equal(cache.view(torch.int16), call.cache.view(torch.int16))


@pytest.mark.parametrize("case", [pytest.param(CASES[0], marks=gpu, id="decode")])
def test_a_cache_at_two_addresses_is_refused(
    harness: ctypes.CDLL, library: Path, case: Case, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Run(load_kernels(), case)
    packed = torch.cat([run.q, run.k, run.v], 2).flatten(2)
    inputs = [packed, run.before, run.call.past_lengths, run.call.query_lengths, run.rope]
    plugin = attention_of(harness, library, case)
    plugin.prepare(inputs)
    assert plugin.enqueue(inputs, [torch.empty_like(run.q), run.before.clone()]) != 0
    assert "the cache's input and output are bound to two addresses" in capfd.readouterr().err


@pytest.mark.parametrize("case", [pytest.param(CASES[3], marks=gpu, id="update")])
def test_kv_update(harness: ctypes.CDLL, library: Path, case: Case) -> None:
    run = Run(load_kernels(), case.with_(rotary_dim=0, packed=False))
    cache = run.before.clone()
    inputs = [run.k.flatten(2), run.v.flatten(2), cache, run.call.past_lengths, run.call.query_lengths]
    plugin = Plugin(harness, library, "KVCacheUpdate", k_scale=1.0)
    assert plugin.refused(inputs, [cache]) == 0
    plugin.prepare(inputs)
    assert plugin.enqueue(inputs, [cache]) == 0
    torch.cuda.synchronize()
    assert torch.equal(cache.view(torch.int16), run.expected_cache().view(torch.int16))


@pytest.mark.parametrize("name", ["Int4GroupwiseGemm", "Int4GroupwiseGemmPlugin"])
@pytest.mark.parametrize("m", [pytest.param(m, marks=gpu) for m in (1, 64, 150)])
def test_int4(harness: ctypes.CDLL, library: Path, m: int, name: str) -> None:
    """Of 150 rows the weight is dequantized, and cuBLAS multiplies; in a CUDA graph, too."""
    packed = pack(np.random.default_rng().integers(-8, 8, (260, 384), dtype=np.int8))
    scales = torch.rand(3, 260).half()
    matrix = torch.from_numpy(dequantize(packed, scales.numpy())).double().cuda()
    x = torch.randn(1, m, 384, device="cuda").half()
    y = torch.full((1, m, 260), torch.nan, device="cuda", dtype=FP16)
    inputs = [x, torch.from_numpy(packed).cuda(), scales.cuda()]
    plugin = Plugin(harness, library, name, gemm_n=260, gemm_k=384, group_size=128)
    assert plugin.refused(inputs, [y]) == 0
    assert plugin.refused([x.float(), *inputs[1:]], [y]) == 0b1101
    plugin.prepare(inputs)
    assert plugin.enqueue(inputs, [y]) == 0
    expected = x.double() @ matrix.T
    assert float((y.double() - expected).norm() / expected.norm()) < 1e-3
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        assert plugin.enqueue(inputs, [y]) == 0
    y.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert float((y.double() - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("Attention", {"num_q_heads": 4, "num_kv_heads": 2}, "field head_size is missing"),
        ("Attention", {"num_q_heads": 4, "alibi": 1}, "unknown field alibi"),
        ("Attention", {"num_q_heads": 4.0}, "field num_q_heads is not one int32"),
        (
            "Attention",
            {"num_q_heads": 4, "num_kv_heads": 3, "head_size": 64, "attention_scale": 0.125},
            "num_q_heads is 4, no multiple of num_kv_heads 3",
        ),
        ("Int4GroupwiseGemm", {"gemm_n": 64, "gemm_k": 128, "group_size": 64}, "group_size is 64, not 128"),
        (
            "AttentionPlugin",
            {"num_q_heads": 4, "num_kv_heads": 2, "head_size": 64, "enable_tree_attention": 1},
            "enable_tree_attention is not supported under this name",
        ),
        ("AttentionPlugin", {"qkv_scales": 1.0}, "field qkv_scales is not 3 float32"),
    ],
)
def test_wrong_fields_are_named(
    harness: ctypes.CDLL,
    library: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    fields: dict[str, float],
    text: str,
) -> None:
    assert not Plugin(harness, library, name, **fields).exists
    assert f"tt_edge::{name}: {text}" in capfd.readouterr().err


def test_the_plugins_compile(headers: Path, tmp_path: Path) -> None:
    compile_unit(PLUGINS, ["87"], tmp_path / "plugins.o", headers=headers)
    compile_unit(Unit(str(Path(__file__).with_name("enqueue.cpp"))), ["87"], tmp_path / "enqueue.o", headers=headers)


def test_tensorrt_loads_the_library_without_a_gpu(library: Path) -> None:
    """TensorRT-RTX's registry: creators and fields. In a process of its own, because a library cannot be loaded twice."""
    pytest.importorskip("tensorrt_rtx")
    code = """if True:
        import json, sys, tensorrt_rtx as trt
        registry = trt.get_plugin_registry()
        assert registry.load_library(sys.argv[1]) is not None
        found = [c for c in registry.all_creators if c.plugin_namespace == "tt_edge"]
        print(json.dumps({c.name: [f.name for f in c.field_names] for c in found}))
    """
    ran = subprocess.run([sys.executable, "-c", code, str(library)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    creators = json.loads(ran.stdout.splitlines()[-1])
    assert set(creators) == {"Attention", "KVCacheUpdate", "Int4GroupwiseGemm"}
    assert set(creators["Attention"]) == GENERATIONS["tt-edge"].field_names
    assert creators["Int4GroupwiseGemm"] == ["gemm_n", "gemm_k", "group_size"]
    assert creators["Attention"][:4] == ["num_q_heads", "num_kv_heads", "head_size", "attention_scale"]
