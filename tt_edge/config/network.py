"""Types, inputs and outputs of the compiled networks. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from tt_edge.compat import StrEnum
from tt_edge.config.base import JsonConfig, require, require_positive
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


#: ``ITopKLayer`` selects up to 3,840 elements, in every release (NvInfer.h); one more than asked for is selected.
MAX_TOP_LOGITS = 3839


@dataclass(frozen=True)
class NetworkConfig(JsonConfig):
    """Types, inputs and outputs of the compiled networks.

    ``full_logits`` returns logits ``[B, S, V]`` instead of only the last token's ``[B, V]``. With ``top_logits`` K, the network
    also selects the K likeliest tokens, so that a step copies these and not the whole vocabulary's logits. With
    ``single_profile``, engines have one optimization profile for prefill and decode instead of one each: the builder compiles
    the network once per profile.
    """

    precision: Precision = Precision.FP16
    layout: Layout = Layout.TT_EDGE
    full_logits: bool = False
    single_profile: bool = False
    top_logits: int | None = None

    def check(self) -> None:
        if self.top_logits is None:
            return
        require_positive("top_logits", self.top_logits)
        require(
            self.top_logits <= MAX_TOP_LOGITS,
            f"top_logits is {self.top_logits}; TensorRT selects at most {MAX_TOP_LOGITS}",
        )
        require(
            not self.full_logits,
            f"top_logits {self.top_logits} is of the last token, and full_logits asks for every token's; give "
            "--logits top-k=K or --full-logits",
        )
        require(
            self.layout is not Layout.EDGE_LLM,
            f"top_logits {self.top_logits} is for tt-edge's own runtime, and layout {self.layout} is not; omit --logits",
        )
