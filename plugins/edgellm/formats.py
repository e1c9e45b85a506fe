"""Asking a plugin library whether it accepts the converter's types and shapes. Torch-free; needs a C++ compiler and a GPU.

Creating a plugin needs a GPU: an AttentionPlugin's decode kernel is compiled for the present GPU. ``formats.cpp``, compiled
against TensorRT's headers, calls the plugin.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tt_edge.config.limits import Limits
from tt_edge.contract.geometry import IMAGE_TOKENS, VisionGeometry
from tt_edge.contract.inputs import known_symbols
from tt_edge.contract.symbols import Phase, Scope
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.plugins.edgellm import vit_contract
from tt_edge.plugins.edgellm.contracts import (
    NAME,
    NAMESPACE,
    VERSION,
    FieldType,
    Generation,
    Interface,
    Operand,
    Value,
)

#: Folders with TensorRT's and CUDA's headers, for installations where the compiler does not find them.
INCLUDE_ENVIRONMENT = "TT_EDGE_TENSORRT_INCLUDE"

Range = tuple[int, int, int]

_STEPS = {1: "TensorRT has no registry", 2: "no V3 creator", 3: "creation", 4: "no build capability"}
_NUMPY = {"INT32": np.int32, "FLOAT32": np.float32}
_MAX_RANK = 8

#: Sizes of a small decoder with Qwen2.5-0.5B's heads, and the range of each symbolic size in both profiles: minimum, optimum,
#: maximum.
HEADS = {"q_heads": 14, "kv_heads": 2, "head_size": 64}
FIXED = {
    **HEADS,
    "q_width": 14 * 64,
    "kv_width": 2 * 64,
    "qkv_width": 18 * 64,
    "capacity": 256,
    "rotary_dim": 64,
    "pages": 8,
    "pages_per_row": 2,
}
_LIMITS = Limits(max_batch=4, max_input_len=128, max_seq_len=256, min_image_tokens=4, max_image_tokens=1024)


def _ranges(phase: Phase, names: Sequence[str], geometry: VisionGeometry | None = None) -> dict[str, Range]:
    scope, known = Scope(_LIMITS, phase, geometry), known_symbols()
    return {name: known[name].sizes(scope) for name in names}


def _decoder(phase: Phase) -> dict[str, Range]:
    sizes = _ranges(phase, ("batch", "sequence", "batch+1", "starts", "phase", "contexts"))
    least, usual, most = (a * b for a, b in zip(sizes["batch"], sizes["sequence"], strict=True))
    return {**sizes, "tokens": (least, usual, most)}


PROFILES: dict[str, dict[str, Range]] = {phase.value: _decoder(phase) for phase in Phase}

#: The tower of Qwen2.5-VL-3B, for 1,024 image tokens. Tokens are patches.
TOWER_HEADS = {"heads": 16, "head_size": 80}
_TOWER = VisionGeometry("qwen2_5_vl", IMAGE_TOKENS, 1, merge_size=2, ragged=True)


def _tower() -> dict[str, Range]:
    sizes = _ranges(Phase.CONTEXT, ("units", "segments+1", "longest"), _TOWER)
    least, usual, most = (units * _TOWER.patches_a_unit for units in sizes.pop("units"))
    return {**sizes, "tokens": (least, usual, most)}


TOWER_PROFILES: dict[str, dict[str, Range]] = {"vision": _tower()}


@dataclass(frozen=True)
class _Question:
    """A plugin as the converter describes it: creator's name and fields, operands, and their sizes in each profile."""

    plugin: str
    fields: Mapping[str, tuple[FieldType, Value]]
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    fixed: Mapping[str, int]
    profiles: Mapping[str, dict[str, Range]]


def check_formats(trt: Any, generation: Generation) -> dict[str, dict[str, bool]]:
    """For each profile, whether the registered AttentionPlugin accepts each input and output, and all together (``configure``).

    Raises ``EngineError`` if the plugin cannot be asked: without a compiler, headers or a GPU, or for a V2 plugin.
    """
    if generation.interface is Interface.V2:
        raise EngineError(f"{generation.interface} is not asked; only V3 plugins are")
    fields = generation.field_values(
        num_q_heads=HEADS["q_heads"],
        num_kv_heads=HEADS["kv_heads"],
        head_size=HEADS["head_size"],
        attention_scale=HEADS["head_size"] ** -0.5,
        sliding_window_size=-1,
    )
    return _answers(trt, _Question(NAME, fields, generation.inputs, generation.outputs, FIXED, PROFILES))


def check_vit_formats(trt: Any) -> dict[str, dict[str, bool]]:
    """Like ``check_formats``, for the registered ViTAttentionPlugin."""
    fields = vit_contract.field_values(TOWER_HEADS["heads"], TOWER_HEADS["head_size"], TOWER_HEADS["head_size"] ** -0.5)
    operands = vit_contract.INPUTS, vit_contract.OUTPUTS
    return _answers(trt, _Question(vit_contract.NAME, fields, *operands, TOWER_HEADS, TOWER_PROFILES))


def _answers(trt: Any, question: _Question) -> dict[str, dict[str, bool]]:
    with tempfile.TemporaryDirectory(prefix="tt-edge-") as folder:
        ask = ctypes.CDLL(str(_compiled(Path(folder)))).tt_edge_plugin_formats
        return {profile: _ask(ask, trt, question, ranges) for profile, ranges in question.profiles.items()}


def _compiled(folder: Path) -> Path:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise EngineError("no C++ compiler is installed")
    includes = [*os.environ.get(INCLUDE_ENVIRONMENT, "").split(os.pathsep), "/usr/local/cuda/include"]
    source, result = Path(__file__).with_name("formats.cpp"), folder / "formats.so"
    flags = ["-std=c++17", "-shared", "-fPIC", "-w", *(f"-I{path}" for path in includes if path)]
    process = subprocess.run(
        [compiler, *flags, str(source), "-o", str(result), "-ldl"], capture_output=True, text=True, check=False
    )
    if process.returncode:
        reason = (process.stderr.splitlines() or ["no message"])[0]
        raise EngineError(f"formats.cpp does not compile ({reason}); name TensorRT's headers in ${INCLUDE_ENVIRONMENT}")
    return result


def shapes_of(operand: Operand, ranges: dict[str, Range], fixed: Mapping[str, int] = FIXED) -> list[tuple[int, ...]]:
    """The operand's shape with -1 for dynamic sizes, then its minimum, optimum and maximum shapes."""
    varying = operand.resolve({**fixed, **dict.fromkeys(ranges, -1)})
    return [varying, *(operand.resolve({**fixed, **{k: v[i] for k, v in ranges.items()}}) for i in range(3))]


def _ask(ask: Any, trt: Any, question: _Question, ranges: dict[str, Range]) -> dict[str, bool]:
    operands, fields = [*question.inputs, *question.outputs], question.fields
    types = [_trt_type(trt, operand.dtype or DType.FLOAT16) for operand in operands]
    sizes = np.zeros((len(operands), 4, _MAX_RANK), np.int64)
    for index, operand in enumerate(operands):
        for row, shape in enumerate(shapes_of(operand, ranges, question.fixed)):
            sizes[index, row, : len(shape)] = shape
    data = [np.atleast_1d(np.array(value, _NUMPY[type_])) for type_, value in fields.values()]
    accepted = (ctypes.c_int32 * (len(operands) + 1))()
    status = ask(
        *(text.encode() for text in (question.plugin, VERSION, NAMESPACE)),
        len(fields),
        (ctypes.c_char_p * len(fields))(*(name.encode() for name in fields)),
        _ints([int(getattr(trt.PluginFieldType, type_)) for type_, _ in fields.values()]),
        (ctypes.c_void_p * len(data))(*(array.ctypes.data for array in data)),
        _ints([len(array) for array in data]),
        len(question.inputs),
        len(question.outputs),
        _ints(types),
        _ints([len(operand.shape) for operand in operands]),
        ctypes.c_void_p(sizes.ctypes.data),
        accepted,
    )
    if status:
        raise EngineError(
            f"{question.plugin} cannot be asked for its formats ({_STEPS.get(status, status)}); it needs a GPU"
        )
    names = [*(o.name for o in question.inputs), *(f"{o.name} (output)" for o in question.outputs), "configure"]
    return dict(zip(names, map(bool, accepted), strict=True))


def _ints(values: Sequence[int]) -> Any:
    return (ctypes.c_int32 * len(values))(*values)


def _trt_type(trt: Any, dtype: DType) -> int:
    names = {DType.FLOAT16: "HALF", DType.FLOAT32: "FLOAT", DType.INT32: "INT32"}
    return int(getattr(trt.DataType, names[dtype]))
