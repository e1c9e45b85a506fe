"""How attention and the KV cache are compiled. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from tt_edge.compat import StrEnum
from tt_edge.config.base import JsonConfig, require


class Backend(StrEnum):
    """The TensorRT layers for attention, RoPE and the KV cache."""

    #: IRotaryEmbeddingLayer, IKVCacheUpdateLayer (in place) and IAttention.
    NATIVE = "native"
    #: IAttention with RoPE as arithmetic; the cache, if any, is passed into and out of the network as tensors.
    SDPA = "sdpa"
    #: One plugin layer for RoPE, KV cache and attention: NVIDIA Edge-LLM's AttentionPlugin (float16 only), or tt-edge's own.
    PLUGIN = "plugin"


class Cache(StrEnum):
    """How a compiled network handles the KV cache."""

    #: Updated in place: the native backend.
    IN_PLACE = "in_place"
    #: No cache: every step computes the whole sequence again (sdpa).
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
    """Generations of NVIDIA's AttentionPlugin, and tt-edge's own; see ``plugins/edgellm/contracts.py``."""

    #: The fork that Torch-TensorRT's plugin branch uses: IPluginV2DynamicExt.
    V0_4 = "0.4"
    #: Separate Q, K and V; one contiguous cache per slot.
    V0_9_1 = "0.9.1"
    #: A paged cache.
    V0_10 = "0.10"
    #: Ragged tokens over a paged cache: the ``tensorrt-edgellm`` package on PyPI.
    V0_11 = "0.11"
    #: tt-edge's own library, which `tt-edge plugin build` compiles.
    TT_EDGE = "tt-edge"


class KVCacheType(StrEnum):
    """Element type of the KV cache."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"


@dataclass(frozen=True)
class AttentionConfig(JsonConfig):
    """How the decoder's attention is compiled.

    ``plugin_contract`` is for the plugin backend. ``kv_cache`` is the element type of the cache; ``None``: the model's.
    """

    backend: Backend = Backend.NATIVE
    cache: Cache = Cache.IN_PLACE
    plugin_contract: PluginContract | None = None
    kv_cache: KVCacheType | None = None

    def check(self) -> None:
        backend = self.backend
        require(
            self.cache in CACHES[backend],
            f"cache {self.cache} is not one of backend {backend}, which has {', '.join(CACHES[backend])}",
        )
        require(
            backend is Backend.PLUGIN or self.plugin_contract is None,
            f"plugin_contract {self.plugin_contract} is not for backend {backend}; add --backend plugin",
        )
        require(
            backend is not Backend.PLUGIN or self.plugin_contract is not None,
            f"backend plugin needs a plugin_contract; choose one of {', '.join(PluginContract)}",
        )
        if self.kv_cache is not KVCacheType.FP8:
            return
        require(
            backend is not Backend.NATIVE,
            "kv_cache fp8 is not for backend native: TensorRT's IKVCacheUpdateLayer takes only fp32, fp16 and bf16; "
            "give --backend plugin",
        )
        require(backend is Backend.PLUGIN, f"kv_cache fp8 is not for backend {backend}; give --backend plugin")
        require(
            self.plugin_contract is not PluginContract.V0_4,
            "kv_cache fp8 is not in plugin contract 0.4; give --plugin-contract 0.9.1 or later",
        )
