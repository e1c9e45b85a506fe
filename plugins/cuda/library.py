"""The compiled kernels from Python: `load_kernels`. Torch-free; pointers and streams are integers."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path

from tt_edge.compat import StrEnum
from tt_edge.errors import EngineError, MissingDependencyError
from tt_edge.plugins.edgellm.own_library import default_library

#: The environment variable with the path of the library of kernels.
ENVIRONMENT = "TT_EDGE_KERNELS_PATH"

#: ``TT_KERNELS_VERSION`` of the header that the structures below follow.
VERSION = 2


class KernelType(StrEnum):
    """Element types of activations (the first two) and caches."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT8 = "float8_e4m3"
    INT8 = "int8"

    @property
    def code(self) -> int:
        """Its ``tt_type``."""
        return list(KernelType).index(self)


class AttentionArgs(Structure):
    """``tt_attention_args`` of tt_edge_kernels.h, which says what each field means."""

    _fields_ = (
        ("q", c_void_p),
        ("k", c_void_p),
        ("v", c_void_p),
        *((f"{name}_{stride}_stride", c_int64) for name in "qkv" for stride in ("batch", "token")),
        ("cache", c_void_p),
        ("rope", c_void_p),
        ("rope_batch_stride", c_int64),
        *((name, c_void_p) for name in ("past_lengths", "query_lengths", "tree_mask", "positions", "sinks")),
        *((name, c_void_p) for name in ("out", "workspace", "counters")),
        *((name, c_float) for name in ("scale", "softcap", "k_scale", "v_scale")),
        *((name, c_int32) for name in ("past_offset", "batch", "q_tokens", "q_heads", "kv_heads", "head_size")),
        *(
            (name, c_int32)
            for name in ("rotary_dim", "rope_positions", "capacity", "window", "type", "cache_type", "splits")
        ),
    )


class Int4Args(Structure):
    """``tt_int4_args`` of tt_edge_kernels.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "weights", "scales", "y")),
        *((name, c_int32) for name in ("m", "n", "k", "group_size", "type")),
    )


class RowArgs(Structure):
    """``tt_row_args`` of tt_edge_kernels.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "w", "y", "bias", "residual", "norm")),
        ("eps", c_float),
        *((name, c_int32) for name in ("gated", "n", "k", "type")),
    )


class Kernels:
    """The library's functions. Each raises ``EngineError`` with the library's own text for wrong arguments or a failed launch."""

    def __init__(self, path: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
            version = int(self._library.tt_kernels_version())
        except (OSError, AttributeError) as error:
            raise EngineError(
                f"{path} is no library of tt-edge's kernels ({error}); run `tt-edge plugin build`"
            ) from error
        if version != VERSION:
            raise EngineError(f"{path} is of version {version}, not {VERSION}; run `tt-edge plugin build` again")
        self.path = path
        for name, arguments in {
            "tt_attention": POINTER(AttentionArgs),
            "tt_kv_update": POINTER(AttentionArgs),
            "tt_int4_gemm": POINTER(Int4Args),
            "tt_int4_dequantize": POINTER(Int4Args),
            "tt_row_product": POINTER(RowArgs),
        }.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = c_char_p, (arguments, c_void_p)
        for name in ("tt_attention_workspace", "tt_attention_counters"):
            function = getattr(self._library, name)
            function.restype, function.argtypes = c_size_t, (POINTER(AttentionArgs),)
        self._library.tt_gemv.restype = c_char_p
        self._library.tt_gemv.argtypes = (c_void_p, c_void_p, c_void_p, c_int32, c_int32, c_int32, c_int32, c_void_p)

    def workspace_bytes(self, args: AttentionArgs) -> int:
        """Bytes of workspace that `attention` needs for these sizes."""
        return int(self._library.tt_attention_workspace(ctypes.byref(args)))

    def counters(self, args: AttentionArgs) -> int:
        """Counters of 4 bytes that `attention` needs, all 0 before the first call."""
        return int(self._library.tt_attention_counters(ctypes.byref(args)))

    def attention(self, args: AttentionArgs, stream: int) -> None:
        """RoPE, the write into the cache and attention of one layer."""
        _check("attention", self._library.tt_attention(ctypes.byref(args), stream))

    def kv_update(self, args: AttentionArgs, stream: int) -> None:
        """The write into the cache alone."""
        _check("KV cache update", self._library.tt_kv_update(ctypes.byref(args), stream))

    def int4_gemm(self, args: Int4Args, stream: int) -> None:
        """The product of up to 64 rows with a 4-bit weight."""
        _check("INT4 product", self._library.tt_int4_gemm(ctypes.byref(args), stream))

    def int4_dequantize(self, args: Int4Args, stream: int) -> None:
        """The weight in 16 bits, ``[N, K]``, at ``args.y``."""
        _check("INT4 dequantization", self._library.tt_int4_dequantize(ctypes.byref(args), stream))

    def row_product(self, args: RowArgs, stream: int) -> None:
        """A linear layer of one row, with its norm, bias, gate and residual."""
        _check("product of a row", self._library.tt_row_product(ctypes.byref(args), stream))

    def gemv(self, x: int, w: int, y: int, m: int, n: int, k: int, kind: KernelType, stream: int) -> None:
        """The product of up to 8 rows with a 16-bit weight."""
        _check("product", self._library.tt_gemv(x, w, y, m, n, k, kind.code, stream))


def _check(what: str, fault: bytes | None) -> None:
    if fault is not None:
        raise EngineError(f"tt-edge's kernel for {what}: {fault.decode()}")


def find_kernels(path: str | Path | None = None) -> Path:
    """The library at ``path``, at ``$TT_EDGE_KERNELS_PATH``, or where `tt-edge plugin build` puts it.

    Raises ``MissingDependencyError`` if there is none.
    """
    given = path or os.environ.get(ENVIRONMENT)
    library = Path(given) if given else default_library()
    if not library.is_file():
        raise MissingDependencyError(f"no kernels at {library}; run `tt-edge plugin build`, or set ${ENVIRONMENT}")
    return library


@cache
def load_kernels(path: str | Path | None = None) -> Kernels:
    """The library that `find_kernels` finds, loaded once."""
    return Kernels(find_kernels(path))
