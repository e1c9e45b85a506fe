"""Opening an engine of a bundle. Separate from ``choose``, so that a machine that evaluates the network loads none of this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tt_edge.bundle.manifest import VISION
from tt_edge.config import Backend, CompileConfig, TowerAttention
from tt_edge.network.legalize.contract import in_form
from tt_edge.network.legalize.form import Form
from tt_edge.network.legalize.legalize import legalize
from tt_edge.plugins.edgellm import contracts, vit_contract
from tt_edge.plugins.edgellm.library import load_library
from tt_edge.runtime.engine.feed_forward import FeedForward, TensorRTFeedForward
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.engine.tensorrt_session import TensorRTSession
from tt_edge.tensorrt_api import Flavour, load
from tt_edge.tensorrt_features import FEATURES

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle, EngineRecord


def open_engine(bundle: Bundle, engine: EngineRecord, flavour: Flavour, *, has_steps: bool) -> FeedForward | Session:
    """Open an engine of ``bundle`` with the TensorRT ``flavour``: a ``Session`` if its part runs in steps.

    Raises ``EngineError`` for an engine that does not load.
    """
    tensorrt, contract = load(flavour), bundle.manifest.part(engine.part)
    if (plugin := _plugin(bundle.manifest.config, engine.part)) is not None:  # TensorRT needs it to load the engine
        load_library(tensorrt.module, None, *plugin)
    kind = TensorRTSession if has_steps else TensorRTFeedForward
    return kind(
        bundle.file(engine.file),
        in_form(contract, Form.parse(engine.form), engine.limits(contract)),
        tensorrt,
        weights=_weights(bundle, engine) if engine.stripped else None,
        holds_host_code=engine.version_compatible,
    )


def _plugin(config: CompileConfig, part: str) -> tuple[str, str] | None:
    """Name and namespace of the plugin that the engines of a part need, if any."""
    if part == VISION:
        tower = vit_contract.NAME, vit_contract.NAMESPACE
        return tower if config.vision.attention is TowerAttention.PLUGIN else None
    if config.attention.backend is not Backend.PLUGIN:
        return None
    contract = contracts.GENERATIONS[str(config.attention.plugin_contract)]
    return contract.name, contract.namespace


def _weights(bundle: Bundle, engine: EngineRecord) -> Mapping[str, np.ndarray]:
    """The weights for an engine built without them: the bundle's, and the constants added by the network's form."""
    form = Form.parse(engine.form)
    if not form.replaced:
        return bundle.weights(engine.part)
    return legalize(bundle.network(engine.part), set(FEATURES) - form.replaced).network.weights
