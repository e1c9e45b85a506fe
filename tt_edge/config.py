"""What a user asks for: frozen, validated, and round-tripping through JSON. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self, TypeVar

from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError
from tt_edge.quant_config import KVCacheType, QuantConfig


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


class Backend(StrEnum):
    """Which TensorRT layers attention, RoPE and the KV cache become."""

    #: IRotaryEmbeddingLayer, IKVCacheUpdateLayer (in place) and IAttention.
    NATIVE = "native"
    #: IAttention with RoPE as arithmetic; the cache, if any, goes in and out of the network as tensors.
    SDPA = "sdpa"
    #: NVIDIA Edge-LLM's AttentionPlugin: RoPE, KV cache and attention in one layer; float16 alone.
    PLUGIN = "plugin"


class Cache(StrEnum):
    """What a compiled network does about the KV cache."""

    #: Updated where it lies: the native backend.
    IN_PLACE = "in_place"
    #: None: every step computes the whole sequence again (sdpa).
    NONE = "none"
    #: The new cache is ``cat(cache[:start], k, cache[end:])``, and attention reads its first ``end`` tokens (sdpa).
    STATIC_V1 = "static_v1"
    #: The same new cache, but attention reads ``cat(cache[:start], k)`` (sdpa).
    STATIC_V2 = "static_v2"


#: The caches that each backend can have, its default first.
CACHES: dict[Backend, tuple[Cache, ...]] = {
    Backend.NATIVE: (Cache.IN_PLACE,),
    Backend.SDPA: (Cache.NONE, Cache.STATIC_V1, Cache.STATIC_V2),
    Backend.PLUGIN: (Cache.IN_PLACE,),
}


class PluginContract(StrEnum):
    """Generations of AttentionPlugin; see ``plugins/edgellm/contracts.py``."""

    #: The fork that Torch-TensorRT's plugin branch uses: IPluginV2DynamicExt.
    V0_4 = "0.4"
    #: Q, K and V apart, a cache row by row.
    V0_9_1 = "0.9.1"
    #: A paged cache.
    V0_10 = "0.10"
    #: Ragged tokens over a paged cache: the ``tensorrt-edgellm`` package on PyPI.
    V0_11 = "0.11"


class Int4Gemm(StrEnum):
    """What INT4 linear layers become."""

    #: NVIDIA's Int4GroupwiseGemmPlugin, where a layer fits it (groups of 128); the plugin backend alone.
    PLUGIN = "plugin"
    #: TensorRT's own blocked INT4, out of the box.
    OOTB = "ootb"


class TowerAttention(StrEnum):
    """What attention in a vision tower becomes."""

    #: TensorRT's attention layer, with masks.
    NATIVE = "native"
    #: NVIDIA Edge-LLM's ViTAttentionPlugin, with offsets.
    PLUGIN = "plugin"


class Layout(StrEnum):
    """For whose runtime a bundle's inputs, outputs and files are."""

    #: tt-edge's own.
    TT_EDGE = "tt-edge"
    #: NVIDIA Edge-LLM's C++ runtime, 0.9.1.
    EDGE_LLM = "edge-llm"


_Enum = TypeVar("_Enum", bound=StrEnum)


class JsonConfig:
    """JSON round trip for frozen dataclasses of JSON-able fields. Unknown keys are refused by name."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(data) - known):
            raise InvalidInputError(
                f"{cls.__name__} has no field {unknown[0]!r}; known fields: {', '.join(sorted(known))}"
            )
        return cls(**data)


def require(condition: bool, message: str) -> None:
    """Raise ``InvalidInputError`` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise InvalidInputError(message)


def require_positive(name: str, value: object) -> None:
    """Raise ``InvalidInputError`` unless ``value`` is an integer of at least 1."""
    is_positive = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    require(is_positive, f"{name} is {value!r}; it must be an integer of at least 1")


def _member(enum: type[_Enum], name: str, value: str) -> _Enum:
    try:
        return enum(value)
    except ValueError:
        raise InvalidInputError(f"{name} {value!r} is unknown; choose one of {', '.join(enum)}") from None


@dataclass(frozen=True)
class CompileConfig(JsonConfig):
    """How to compile a checkpoint.

    ``max_batch`` rows, ``max_input_len`` prompt tokens a row in one call, ``max_seq_len`` tokens a row in all:
    the capacity of the KV cache. ``full_logits`` returns ``[B, S, V]`` logits in place of the last token's ``[B, V]``.
    ``single_profile`` gives engines one optimization profile for prefill and decode in place of one each: the builder
    compiles the network once a profile. ``cache`` is the backend's default where it is not given; so is
    ``plugin_contract``, which only the plugin backend has, and ``int4_gemm``, which is its plugin there.

    ``max_image_tokens`` and ``min_image_tokens`` are of a vision-language model: image tokens in one call of the vision
    network, and at most in a row's prompt. They are ``None`` of a language model. ``vision_attention`` is its tower's, which may
    be the plugin's on any backend.
    """

    backend: Backend = Backend.NATIVE
    precision: Precision = Precision.FP16
    max_batch: int = 1
    max_input_len: int = 1024
    max_seq_len: int = 2048
    full_logits: bool = False
    single_profile: bool = False
    cache: Cache | None = None
    plugin_contract: PluginContract | None = None
    layout: Layout = Layout.TT_EDGE
    quant: QuantConfig | None = None
    kv_cache: KVCacheType | None = None
    int4_gemm: Int4Gemm | None = None
    min_image_tokens: int | None = None
    max_image_tokens: int | None = None
    vision_attention: TowerAttention = TowerAttention.NATIVE

    def __post_init__(self) -> None:
        if isinstance(self.quant, Mapping):
            object.__setattr__(self, "quant", QuantConfig.from_dict(self.quant))
        backend = _member(Backend, "backend", self.backend)
        layout = _member(Layout, "layout", self.layout)
        object.__setattr__(self, "layout", layout)
        if layout is Layout.EDGE_LLM:
            contract = PluginContract.V0_9_1
            fits = backend is Backend.PLUGIN and self.plugin_contract in (None, contract)
            require(fits, f"layout {layout} is of backend plugin with contract {contract}; give --backend plugin alone")
            object.__setattr__(self, "plugin_contract", contract)
        cache = CACHES[backend][0] if self.cache is None else _member(Cache, "cache", self.cache)
        require(
            cache in CACHES[backend],
            f"cache {cache} is not one of backend {backend}, which has {', '.join(CACHES[backend])}",
        )
        object.__setattr__(self, "backend", backend)
        object.__setattr__(self, "cache", cache)
        if backend is Backend.PLUGIN:
            wanted = PluginContract.V0_11 if self.plugin_contract is None else self.plugin_contract
            object.__setattr__(self, "plugin_contract", _member(PluginContract, "plugin_contract", wanted))
        require(
            backend is Backend.PLUGIN or self.plugin_contract is None,
            f"plugin_contract {self.plugin_contract} is not for backend {backend}; add --backend plugin",
        )
        if cache is Cache.NONE:  # every step takes the whole sequence
            object.__setattr__(self, "max_input_len", self.max_seq_len)
        object.__setattr__(self, "precision", _member(Precision, "precision", self.precision))
        attention = _member(TowerAttention, "vision_attention", self.vision_attention)
        object.__setattr__(self, "vision_attention", attention)
        self._check_kv_cache()
        default = Int4Gemm.PLUGIN if backend is Backend.PLUGIN else Int4Gemm.OOTB
        gemm = default if self.int4_gemm is None else _member(Int4Gemm, "int4_gemm", self.int4_gemm)
        require(
            gemm is Int4Gemm.OOTB or backend is Backend.PLUGIN,
            f"int4_gemm {gemm} is not for backend {backend}; give --backend plugin, or leave --int4-gemm",
        )
        object.__setattr__(self, "int4_gemm", gemm)
        for name in ("max_batch", "max_seq_len", "max_input_len"):
            require_positive(name, getattr(self, name))
        for name in ("min_image_tokens", "max_image_tokens"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        require(
            self.min_image_tokens is None or self.min_image_tokens <= (self.max_image_tokens or self.min_image_tokens),
            f"min_image_tokens {self.min_image_tokens} exceeds max_image_tokens {self.max_image_tokens}; lower "
            "--min-image-tokens or raise --max-image-tokens",
        )
        for name in ("full_logits", "single_profile"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"{name} is {value!r}; it must be true or false")
        require(
            self.max_input_len <= self.max_seq_len,
            f"max_input_len {self.max_input_len} exceeds max_seq_len {self.max_seq_len}; "
            "raise --max-seq-len or lower --max-input-len",
        )

    @property
    def needs_plugins(self) -> bool:
        """Whether engines need NVIDIA's plugin library, where they are built and where they run."""
        return self.backend is Backend.PLUGIN or self.vision_attention is TowerAttention.PLUGIN

    def _check_kv_cache(self) -> None:
        """The cache has the model's precision, unless the backend can keep it in FP8."""
        if self.kv_cache is None:
            return
        kind = _member(KVCacheType, "kv_cache", self.kv_cache)
        object.__setattr__(self, "kv_cache", kind)
        if kind is not KVCacheType.FP8:
            require(
                kind.value == self.precision.value,
                f"kv_cache {kind} differs from precision {self.precision}; leave it out, or give --precision {kind}",
            )
            return
        require(
            self.backend is not Backend.NATIVE,
            "kv_cache fp8 is not for backend native: TensorRT's IKVCacheUpdateLayer takes fp32, fp16 and bf16 alone; "
            "give --backend plugin",
        )
        require(
            self.backend is Backend.PLUGIN, f"kv_cache fp8 is not for backend {self.backend}; give --backend plugin"
        )
        require(
            self.plugin_contract is not PluginContract.V0_4,
            "kv_cache fp8 is not in plugin contract 0.4; give --plugin-contract 0.9.1 or later",
        )


@dataclass(frozen=True)
class EngineTarget(JsonConfig):
    """Which GPUs to build an engine for.

    ``compute_capabilities`` such as ``("sm89", "sm120")`` are built ahead of time into one engine each; ``local``
    builds for the GPU in this machine; neither builds none (the bundle still holds the network, for the target to build).
    """

    compute_capabilities: tuple[str, ...] = ()
    local: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "compute_capabilities", tuple(self.compute_capabilities))
        for name in self.compute_capabilities:
            require(
                re.fullmatch(r"sm\d{2,3}", name) is not None,
                f"engine target {name!r} is not of the form sm89; give e.g. --engine sm89,sm120, local or none",
            )

    @property
    def targets(self) -> list[str | None]:
        """What to build for: compute capabilities, and ``None`` for the local GPU."""
        return [*self.compute_capabilities, *([None] if self.local else [])]

    @classmethod
    def parse(cls, text: str) -> EngineTarget:
        """Parse ``sm89,sm120``, ``local`` or ``none`` (the command line's ``--engine``)."""
        names = [part.strip().lower() for part in text.split(",") if part.strip()]
        require(bool(names), f"engine target {text!r} is empty; give e.g. --engine sm89,sm120, local or none")
        if names == ["none"]:
            return cls()
        return cls(
            compute_capabilities=tuple(dict.fromkeys(n for n in names if n != "local")),
            local="local" in names,
        )
