"""The weight layout of ``Int4GroupwiseGemmPlugin``, and of tt-edge's ``Int4GroupwiseGemm``. Torch-free.

The same in 0.4 (``IPluginV2DynamicExt``) and later (``IPluginV3``): fields ``gemm_n``, ``gemm_k`` and ``group_size``;
inputs are activations fp16 ``[B, S, K]``, weights int8 ``[N / 2, K]`` and scales fp16 ``[K / 128, N]``; the output is fp16
``[B, S, N]``. An element is ``(nibble - 8) * scale``.

The order of the nibbles suits a kernel that reads 16 bytes at once and unpacks them with few instructions: within 32
columns, pairs of columns from the four quarters are adjacent; within 8 columns, the even ones precede the odd ones; and the
64-column stripes of four rows are consecutive.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import InvalidInputError
from tt_edge.plugins.edgellm.contracts import OWN_CONTRACT, OWN_NAMESPACE

NAME, VERSION, NAMESPACE = "Int4GroupwiseGemmPlugin", "1", ""

#: tt-edge's plugin, in ``OWN_NAMESPACE``: the same fields and inputs.
OWN_NAME = "Int4GroupwiseGemm"
FIELDS = ("gemm_n", "gemm_k", "group_size")

#: The only group size of the plugin.
GROUP_SIZE = 128

_ROWS, _STRIPE, _OFFSET = 4, 64, 8


def plugin_of(contract: str) -> tuple[str, str]:
    """Name and namespace of the plugin in the libraries of a contract of ``GENERATIONS``."""
    return (OWN_NAME, OWN_NAMESPACE) if contract == OWN_CONTRACT else (NAME, NAMESPACE)


def fits(rows: int, columns: int, group_size: int) -> bool:
    """Whether the plugin supports a weight ``[rows, columns]`` with a scale for each ``group_size`` columns."""
    return group_size == GROUP_SIZE and columns % GROUP_SIZE == 0 and rows % _ROWS == 0


def pack(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Pack codes -8 to 7, ``[N, K]``, in the plugin's order ``[N / 2, K]``. Raises ``InvalidInputError`` if they do not fit."""
    rows, columns = codes.shape
    if not fits(rows, columns, GROUP_SIZE):
        raise InvalidInputError(
            f"a weight of {rows} x {columns} does not fit {NAME}, which takes multiples of {_ROWS} x {GROUP_SIZE}; "
            "compile with --int4-gemm ootb"
        )
    nibbles = (codes + _OFFSET).astype(np.uint16)
    quarters = nibbles.reshape(rows, columns // 32, 4, 4, 2).swapaxes(2, 3)
    evens_first = quarters.reshape(rows, columns // 8, 4, 2).swapaxes(2, 3).reshape(rows, columns)
    stripes = evens_first.reshape(rows // _ROWS, _ROWS, columns // _STRIPE, _STRIPE).swapaxes(1, 2)
    fours = stripes.reshape(-1, 4)
    words = fours[:, 0] | fours[:, 1] << 4 | fours[:, 2] << 8 | fours[:, 3] << 12
    return words.astype("<u2").view(np.int8).reshape(rows // 2, columns)


def unpack(packed: NDArray[np.int8]) -> NDArray[np.int8]:
    """The reverse of ``pack``."""
    rows, columns = packed.shape[0] * 2, packed.shape[1]
    words = np.ascontiguousarray(packed).view("<u2").reshape(-1)
    fours = np.stack([words >> shift & 15 for shift in (0, 4, 8, 12)], axis=-1)
    stripes = fours.reshape(rows // _ROWS, columns // _STRIPE, _ROWS, _STRIPE).swapaxes(1, 2)
    quarters = stripes.reshape(rows, columns // 8, 2, 4).swapaxes(2, 3)
    nibbles = quarters.reshape(rows, columns // 32, 4, 4, 2).swapaxes(2, 3).reshape(rows, columns)
    return nibbles.astype(np.int8) - np.int8(_OFFSET)


def dequantize(packed: NDArray[np.int8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    """The dequantized weight ``[N, K]``, from the plugin's inputs."""
    codes = unpack(packed).astype(np.float32)
    groups = codes.reshape(len(codes), -1, GROUP_SIZE)
    groups *= scales.T.astype(np.float32)[..., None]
    return codes
