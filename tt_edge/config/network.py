"""Types, inputs and outputs of the compiled networks. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from tt_edge.compat import StrEnum
from tt_edge.config.base import JsonConfig
from tt_edge.dtypes import DType


class Precision(StrEnum):
    """Precision that weights and activations are compiled in."""

    FP16 = "fp16"
    #: Same exponent range as fp32; needs Ampere or newer.
    BF16 = "bf16"
    #: For parity checks; twice the memory traffic of fp16.
    FP32 = "fp32"

    @property
    def dtype(self) -> DType:
        return {"fp16": DType.FLOAT16, "bf16": DType.BFLOAT16, "fp32": DType.FLOAT32}[self.value]


class Layout(StrEnum):
    """The runtime that a bundle's inputs, outputs and files are made for."""

    #: tt-edge's own.
    TT_EDGE = "tt-edge"
    #: NVIDIA Edge-LLM's C++ runtime, 0.9.1.
    EDGE_LLM = "edge-llm"


@dataclass(frozen=True)
class NetworkConfig(JsonConfig):
    """Types, inputs and outputs of the compiled networks.

    ``full_logits`` returns logits ``[B, S, V]`` instead of only the last token's ``[B, V]``. With ``single_profile``, engines
    have one optimization profile for prefill and decode instead of one each: the builder compiles the network once per
    profile.
    """

    precision: Precision = Precision.FP16
    layout: Layout = Layout.TT_EDGE
    full_logits: bool = False
    single_profile: bool = False
