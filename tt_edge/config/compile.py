"""How to compile a checkpoint: one configuration for each concern. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tt_edge.config.attention import CACHES, AttentionConfig, Backend, Cache, KVCacheType, PluginContract
from tt_edge.config.base import JsonConfig, member, require
from tt_edge.config.limits import Limits
from tt_edge.config.network import Layout, NetworkConfig, Precision
from tt_edge.config.quantization import Int4Gemm, QuantizationConfig
from tt_edge.config.vision import TowerAttention, VisionConfig
from tt_edge.errors import InvalidInputError
from tt_edge.platforms import parse_platform
from tt_edge.tensorrt_api import Flavour
from tt_edge.tensorrt_features import release_of


@dataclass(frozen=True)
class CompileConfig(JsonConfig):
    """How to compile a checkpoint. ``CompileConfig.of`` makes one from flat settings and fills in what follows from others."""

    limits: Limits = field(default_factory=Limits)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)

    @classmethod
    def of(cls, **settings: Any) -> CompileConfig:
        """From settings by the names of the command line's options, such as ``max_batch=4, backend="plugin"``.

        ``cache``, ``plugin_contract`` and ``int4_gemm`` are the backend's default where they are ``None`` or not given.
        ``platforms`` are those of ``EngineTarget``: if each has a TensorRT before 11, the contract is tt-edge's own. Raises
        ``InvalidInputError`` for an unknown or wrong setting.
        """
        platforms: Sequence[str] = settings.pop("platforms", ())
        backend = member(Backend, "backend", settings.get("backend", Backend.NATIVE))
        layout = member(Layout, "layout", settings.get("layout", Layout.TT_EDGE))
        is_plugin = backend is Backend.PLUGIN
        contract = PluginContract.V0_9_1 if layout is Layout.EDGE_LLM else _default_contract(platforms)
        defaults = {
            "cache": CACHES[backend][0],
            "plugin_contract": contract if is_plugin else None,
            "int4_gemm": Int4Gemm.PLUGIN if is_plugin else Int4Gemm.OOTB,
        }
        settings = {**settings, **{name: value for name, value in defaults.items() if settings.get(name) is None}}
        if settings["cache"] == Cache.NONE:  # every step takes the whole sequence
            settings["max_input_len"] = settings.get("max_seq_len", Limits.max_seq_len)
        concerns: dict[str, dict[str, Any]] = {concern: {} for concern in _CONCERNS}
        for name, value in settings.items():
            if name not in _SETTINGS:
                known = ", ".join(sorted(_SETTINGS))
                raise InvalidInputError(f"CompileConfig has no setting {name!r}; known settings: {known}")
            concern, key = _SETTINGS[name]
            concerns[concern][key] = value
        return cls(**{concern: _CONCERNS[concern](**values) for concern, values in concerns.items()})

    def check(self) -> None:
        """Check that the configurations are consistent with each other."""
        attention, network = self.attention, self.network
        is_plugin = attention.backend is Backend.PLUGIN
        if network.layout is Layout.EDGE_LLM:
            contract = PluginContract.V0_9_1
            require(
                is_plugin and attention.plugin_contract is contract,
                f"layout {network.layout} is of backend plugin with contract {contract}; give only --backend plugin",
            )
        require(
            attention.kv_cache in (None, KVCacheType.FP8) or str(attention.kv_cache) == str(network.precision),
            f"kv_cache {attention.kv_cache} differs from precision {network.precision}; omit --kv-cache, or give --precision "
            f"{attention.kv_cache}",
        )
        require(
            is_plugin or self.quantization.int4_gemm is Int4Gemm.OOTB,
            f"int4_gemm {self.quantization.int4_gemm} is not for backend {attention.backend}; give --backend plugin, or omit "
            "--int4-gemm",
        )
        require(
            attention.cache is not Cache.NONE or self.limits.max_input_len == self.limits.max_seq_len,
            f"max_input_len {self.limits.max_input_len} is not max_seq_len {self.limits.max_seq_len}, and without a cache "
            "every step takes the whole sequence; omit --max-input-len",
        )

    def with_limits(self, limits: Limits) -> CompileConfig:
        """A copy with other limits."""
        return replace(self, limits=limits)

    @property
    def needs_plugins(self) -> bool:
        """Whether building and running the engines needs a plugin library."""
        return self.attention.backend is Backend.PLUGIN or self.vision.attention is TowerAttention.PLUGIN

    @property
    def plugin_precisions(self) -> tuple[Precision, ...]:
        """The precisions that the plugins of this configuration compute in."""
        own = self.attention.plugin_contract is PluginContract.TT_EDGE
        of_nvidia = self.vision.attention is TowerAttention.PLUGIN or not own
        return (Precision.FP16,) if of_nvidia else (Precision.FP16, Precision.BF16)


def _default_contract(platforms: Sequence[str]) -> PluginContract:
    """NVIDIA's library for TensorRT before 11 is of an older contract, and has to be built by hand."""
    releases = [release for name in platforms for release in parse_platform(name).releases]
    standard = all(parse_platform(name).flavour is Flavour.STANDARD for name in platforms)
    old = bool(releases) and standard and all(release_of(release) < (11,) for release in releases)
    return PluginContract.TT_EDGE if old else PluginContract.V0_11


_CONCERNS: dict[str, Any] = {
    "limits": Limits,
    "network": NetworkConfig,
    "attention": AttentionConfig,
    "vision": VisionConfig,
    "quantization": QuantizationConfig,
}
_RENAMED = {("vision", "attention"): "vision_attention", ("quantization", "recipe"): "quant"}
#: The configuration that each command-line setting belongs to.
_SETTINGS = {
    _RENAMED.get((concern, f.name), f.name): (concern, f.name)
    for concern, kind in _CONCERNS.items()
    for f in fields(kind)
}
