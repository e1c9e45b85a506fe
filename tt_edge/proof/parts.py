"""The parts of a bundle as proof needs them: their names, their contracts, and what runs them. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tt_edge.bundle.manifest import Manifest, Part
from tt_edge.contract import SHAPE_TENSORS, EngineContract
from tt_edge.runtime.engine.choose import Machine, open_session, open_vision
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.multimodal.pipeline import VisionPipeline
from tt_edge.runtime.text.tokenizer import BundleTokenizer
from tt_edge.vision_contract import VisionContract

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle

DECODER, VISION = Part.LLM, Part.VISION
Contract = EngineContract | VisionContract


def in_order(manifest: Manifest) -> list[Part]:
    """The parts, the decoder last."""
    return [part for part in manifest.parts if part != DECODER] + [DECODER]


def is_shape_tensor(name: str) -> bool:
    """Whether TensorRT reads an input's values on the host."""
    return name in SHAPE_TENSORS


def caches_in_place(contract: Contract) -> dict[str, str]:
    """Outputs that must have the address of an input, with that input."""
    in_place = isinstance(contract, EngineContract) and contract.kv_in_place
    return {pair.present: pair.past for pair in contract.kv_cache} if in_place else {}  # type: ignore[union-attr]


def open_decoder(bundle: Bundle, runtime: str, machine: Machine | None = None) -> Session:
    """What runs the decoder."""
    return open_session(bundle, runtime, machine)


def open_pipeline(bundle: Bundle, runtime: str, machine: Machine | None = None) -> VisionPipeline:
    """Preprocessing and the vision network of a vision-language model."""
    tokenizer = BundleTokenizer.from_bundle(bundle)
    return VisionPipeline.from_bundle(bundle, open_vision(bundle, runtime, machine), tokenizer)
