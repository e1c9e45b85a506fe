"""The user's configuration: frozen dataclasses, validated on creation, with a JSON round trip. Torch-free."""

from tt_edge.config.attention import CACHES, AttentionConfig, Backend, Cache, KVCacheType, PluginContract
from tt_edge.config.compile import CompileConfig
from tt_edge.config.limits import Limits
from tt_edge.config.network import Layout, NetworkConfig, Precision
from tt_edge.config.quantization import Int4Gemm, QuantConfig, QuantFormat, QuantizationConfig, check_capability
from tt_edge.config.target import EngineTarget
from tt_edge.config.vision import TowerAttention, VisionConfig

__all__ = [
    "CACHES",
    "AttentionConfig",
    "Backend",
    "Cache",
    "CompileConfig",
    "EngineTarget",
    "Int4Gemm",
    "KVCacheType",
    "Layout",
    "Limits",
    "NetworkConfig",
    "PluginContract",
    "Precision",
    "QuantConfig",
    "QuantFormat",
    "QuantizationConfig",
    "TowerAttention",
    "VisionConfig",
    "check_capability",
]
