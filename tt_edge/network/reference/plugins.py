"""PLUGIN_V2 and PLUGIN_V3: the plugins that the reference evaluator implements."""

from __future__ import annotations

from collections.abc import Callable

from tt_edge.errors import UnsupportedModelError
from tt_edge.network.reference.plugin_attention import attention_plugin
from tt_edge.network.reference.plugin_int4_gemm import int4_groupwise_gemm
from tt_edge.network.reference.plugin_vit_attention import vit_attention_plugin
from tt_edge.network.reference.registry import BoundLayer, Compute, kernel
from tt_edge.plugins.edgellm import contracts, int4_packing, vit_contract

PLUGINS: dict[str, Callable[[BoundLayer], Compute]] = {
    contracts.NAME: attention_plugin,
    contracts.OWN_NAME: attention_plugin,
    int4_packing.NAME: int4_groupwise_gemm,
    int4_packing.OWN_NAME: int4_groupwise_gemm,
    vit_contract.NAME: vit_attention_plugin,
}


@kernel("PLUGIN_V2")
@kernel("PLUGIN_V3")
def plugin(layer: BoundLayer) -> Compute:
    """The kernel of the layer's plugin; raises ``UnsupportedModelError`` for an unknown plugin."""
    name = str(layer.attribute("plugin"))
    if name not in PLUGINS:
        raise UnsupportedModelError(
            f"{layer} is the plugin {name}, which the reference evaluator lacks (it has {', '.join(PLUGINS)}); "
            "run an engine instead"
        )
    return PLUGINS[name](layer)
