"""What runs the parts of a bundle that proof looks at: the decoder, the vision network with its preprocessing, and the encoder.
Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tt_edge.bundle.manifest import DECODER, ENCODER, VISION, EngineRecord, Manifest
from tt_edge.contract import IOContract
from tt_edge.network.ir import Network
from tt_edge.network.legalize.contract import in_form
from tt_edge.network.legalize.form import Form
from tt_edge.network.legalize.legalize import legalize
from tt_edge.runtime.engine.choose import Machine, open_part
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.multimodal.pipeline import VisionPipeline
from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
from tt_edge.runtime.text.tokenizer import BundleTokenizer
from tt_edge.tensorrt_features import FEATURES

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle


def in_order(manifest: Manifest) -> list[str]:
    """The parts, the decoder last."""
    return [part for part in manifest.parts if part != DECODER] + [DECODER]


def as_built(bundle: Bundle, part: str, engine: EngineRecord | None) -> tuple[Network, IOContract]:
    """A part's network and contract in the form that ``engine`` was built in, or as captured where there is no engine."""
    network, contract = bundle.network(part), bundle.manifest.part(part)
    form = Form.parse(engine.form) if engine is not None else Form()
    if form.replaced:
        network = legalize(network, set(FEATURES) - form.replaced).network
    return network, in_form(contract, form, engine.limits(contract) if engine is not None else None)


def open_decoder(bundle: Bundle, runtime: str, machine: Machine | None = None) -> Session:
    """What runs the decoder."""
    return open_part(bundle, DECODER, runtime, machine)


def open_pipeline(bundle: Bundle, runtime: str, machine: Machine | None = None) -> VisionPipeline:
    """Preprocessing and the vision network of a vision-language model. Images keep their sizes, as where answers were stored."""
    session, tokenizer = open_part(bundle, VISION, runtime, machine), BundleTokenizer.from_bundle(bundle)
    return VisionPipeline.from_bundle(bundle, session, tokenizer, scale_to_fit=False)


def open_sources(bundle: Bundle, runtime: str, machine: Machine | None = None) -> SourcePipeline:
    """The encoder of an encoder-decoder."""
    return SourcePipeline.from_bundle(bundle, open_part(bundle, ENCODER, runtime, machine))
