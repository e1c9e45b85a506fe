"""Compiling the kernels: without a GPU, with the nvcc that is installed."""

from __future__ import annotations

import ctypes
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tt_edge.errors import EngineError, InvalidInputError, MissingDependencyError, TTEdgeError
from tt_edge.plugins.cuda import build
from tt_edge.plugins.cuda.build import UNITS, Unit, architecture, compile_unit, find_nvcc
from tt_edge.plugins.cuda.library import AttentionArgs, Int4Args, Kernels, find_kernels

#: JetPack's boards (87, 110), servers (80, 90) and RTX cards (120).
ARCHITECTURES = ("80", "87", "90", "110", "120")
#: Of the attention kernels, one of decode and one of prefill: all of them take minutes.
SAMPLE = Unit("attention.cu", ("TT_HEAD_SIZE=64", "TT_TYPE=0", "TT_SAMPLE"))


@pytest.fixture(scope="module")
def nvcc() -> Path:
    try:
        return find_nvcc()
    except MissingDependencyError as missing:
        pytest.skip(str(missing))


def test_every_architecture_compiles(nvcc: Path, tmp_path: Path) -> None:
    units = [(SAMPLE, [arch]) for arch in ARCHITECTURES]
    units += [(Unit("interface.cu"), ["80"]), (Unit("kv_update.cu"), ["87"]), (Unit("int4_gemm.cu"), ["110"])]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n, of: compile_unit(of[0], of[1], tmp_path / f"{n}.o", nvcc), range(len(units)), units))
    assert len(list(tmp_path.glob("*.o"))) == len(units)


def test_the_structures_are_the_headers(nvcc: Path, tmp_path: Path) -> None:
    """Sizes and offsets that the C++ compiler gives are those of Python's structures."""
    lines = []
    for name, structure in {"tt_attention_args": AttentionArgs, "tt_int4_args": Int4Args}.items():
        lines.append(f"static_assert(sizeof({name}) == {ctypes.sizeof(structure)});")
        for field, *_ in structure._fields_:
            lines.append(f"static_assert(offsetof({name}, {field}) == {getattr(structure, field).offset});")
    source = tmp_path / "layout.cu"
    source.write_text(f'#include "{Path(build.__file__).parent / "tt_edge_kernels.h"}"\n' + "\n".join(lines))
    compile_unit(Unit(str(source)), ["80"], tmp_path / "layout.o", nvcc)
    source.write_text(source.read_text().replace("== 0)", "== 4)", 1))
    with pytest.raises(TTEdgeError, match=r"nvcc failed on .*layout\.cu: .*static assertion failed"):
        compile_unit(Unit(str(source)), ["80"], tmp_path / "layout.o", nvcc)


def test_every_source_is_compiled() -> None:
    assert {unit.source for unit in UNITS} == {path.name for path in Path(build.__file__).parent.glob("*.cu")}
    assert len({unit.object_name for unit in UNITS}) == len(UNITS)


@pytest.mark.parametrize("name", ["87", "8.7", "sm_87", "SM87"])
def test_names_of_an_architecture(name: str) -> None:
    assert architecture(name) == "87"


@pytest.mark.parametrize("name", ["75", "sm_90a", "orin", ""])
def test_an_architecture_that_is_not_supported(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"is not one of sm_80, .*sm_87, .*sm_110"):
        architecture(name)


def test_no_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDACXX", str(tmp_path / "nvcc"))
    with pytest.raises(
        MissingDependencyError, match=r"no nvcc at \$CUDACXX=.*; install the CUDA toolkit, or pip install"
    ):
        find_nvcc()


def test_a_compiler_that_fails_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "nvcc"
    compiler.write_text("#!/bin/sh\necho 'a.cu(1): error: no such thing' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CUDACXX", str(compiler))
    library = tmp_path / "out" / "lib.so"
    library.parent.mkdir()
    library.write_text("of before")
    with pytest.raises(TTEdgeError, match=r"nvcc failed on attention\.cu: a\.cu\(1\): error: no such thing"):
        build.build_kernels(["87"], library)
    assert [path.name for path in library.parent.iterdir()] == ["lib.so"]
    assert library.read_text() == "of before"


def test_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TT_EDGE_KERNELS_PATH", str(tmp_path / "none.so"))
    with pytest.raises(MissingDependencyError, match=r"no kernels at .*none\.so; run `tt-edge plugin build`"):
        find_kernels()
    (tmp_path / "none.so").write_text("not a library")
    with pytest.raises(EngineError, match=r"none\.so is no library of tt-edge's kernels"):
        Kernels(find_kernels())


def test_the_workspace_suits_every_gpu() -> None:
    """It is asked for where an engine is built, and used on another GPU, and with smaller batches: parts of decode's cache are
    as many as there are multiprocessors, 256 at most, over the batch and its heads."""
    try:
        kernels = Kernels(find_kernels())
    except MissingDependencyError as missing:
        pytest.skip(str(missing))
    memory = ctypes.create_string_buffer(64)
    at = -(-ctypes.addressof(memory) // 16) * 16
    sizes = itertools.product((1, 3, 16, 300), (1, 2, 8), (1, 7, 8, 9, 40), (64, 256), (1, 4096, 32768))
    for batch, kv_heads, ratio, head_size, capacity in sizes:
        args = AttentionArgs(q=at, k=at, v=at, cache=at, out=at, scale=1, k_scale=1, v_scale=1, batch=batch, q_tokens=1)
        args.q_heads, args.kv_heads, args.head_size, args.capacity = kv_heads * ratio, kv_heads, head_size, capacity
        rows = 8 if ratio <= 8 else 16
        units = batch * kv_heads * -(-ratio // rows)
        assert kernels.counters(args) == units
        given = kernels.workspace_bytes(args)
        for processors in (1, 8, 20, 132, 148, 400):
            splits = max(1, min(min(processors, 256) // units, -(-capacity // 128)))
            assert given >= (units * splits * rows * (head_size + 4) * 4 if splits > 1 else 0)
