"""Proof on the machine that runs a bundle: its golden set by the engines that fit, and the search where it fails. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tt_edge.bundle.engines import profiles_for
from tt_edge.bundle.manifest import DECODER, ENCODER, VISION, EngineRecord, Evidence
from tt_edge.bundle.update import is_version_of
from tt_edge.doctor.system import read_system
from tt_edge.doctor.traps import Situation, Trap, traps_for
from tt_edge.errors import EngineError
from tt_edge.network.build import local_compute_capability
from tt_edge.network.storage import read_weights
from tt_edge.plugins.edgellm.library import load_for_building
from tt_edge.proof.bisect.bisection import Bisection, Trial
from tt_edge.proof.bisect.case import Case, decoder_case, encoder_case, first_failure, vision_case
from tt_edge.proof.bisect.graph import Graph
from tt_edge.proof.bisect.one_call import TensorRTTrial
from tt_edge.proof.bisect.verdict import Verdict
from tt_edge.proof.bisect.yardstick import Yardstick
from tt_edge.proof.evidence import evidence_of
from tt_edge.proof.golden import GOLDEN_FILE, MAX_BYTES, GoldenSet
from tt_edge.proof.parts import as_built, in_order, open_decoder, open_pipeline, open_sources
from tt_edge.proof.precision import PrecisionReport, compare_precision, layer_information, parse_layers
from tt_edge.proof.replay import Replay, replay
from tt_edge.runtime.engine.choose import Machine, Runtime
from tt_edge.tensorrt_api import load

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle
    from tt_edge.runtime.multimodal.pipeline import VisionPipeline
    from tt_edge.runtime.seq2seq.pipeline import SourcePipeline


#: Relative error up to which TF32, which has the 10 fraction bits of fp16, may be to blame.
TF32_ERROR = 5e-3


@dataclass(frozen=True)
class Proof:
    """What running the golden set showed. ``engines`` are those that ran, none where the reference evaluated the network;
    ``precision`` is by part, of engines that say what their layers are."""

    replay: Replay
    engines: tuple[EngineRecord, ...]
    precision: dict[str, PrecisionReport]

    @property
    def passed(self) -> bool:
        """Whether the numbers match and every product was built in the types that were asked for."""
        return self.replay.passed and all(report.passed for report in self.precision.values())

    @property
    def hint(self) -> str:
        """What may explain a result that does not match, "" where nothing is known."""
        result = self.replay
        if self.engines and result.precision == "fp32" and result.tolerance < result.relative_error < TF32_ERROR:
            return "engines in fp32 may compute products in TF32, which errs so much; compile in fp16 or bf16 to compare closely"
        return ""

    @property
    def evidence(self) -> Evidence:
        return evidence_of(self.replay, self.engines[-1] if self.engines else None)


def golden_of(bundle: Bundle) -> GoldenSet | None:
    """The golden set that ``bundle`` lists, checked; ``None`` where it has none. Raises ``BundleError`` for a malformed one."""
    name = next((name for name in bundle.manifest.files if is_version_of(name, GOLDEN_FILE)), None)
    if name is None:
        return None
    bundle.read_bytes(name, MAX_BYTES + (1 << 20))  # its size, with the header, and its SHA-256
    return GoldenSet.from_tensors(read_weights(bundle.file(name)))


def fitting_engines(bundle: Bundle, machine: Machine) -> tuple[EngineRecord, ...]:
    """The engine of each part that runs on ``machine``; nothing unless every part has one. The decoder's is the last."""
    manifest = bundle.manifest
    engines = (manifest.engines_of(part) for part in in_order(manifest))
    found = [next((engine for engine in own if machine.misfit(engine) is None), None) for own in engines]
    return tuple(engine for engine in found if engine is not None) if None not in found else ()


def prove(bundle: Bundle, golden: GoldenSet, runtime: str, machine: Machine | None = None) -> Proof | None:
    """Run ``golden`` by the engines that fit ``machine`` (default: this one), or by the reference where ``runtime`` says so.

    ``None`` where ``runtime`` is ``auto`` and no engine fits. Raises ``EngineError`` for ``tensorrt`` then, and what opening and
    running engines raises.
    """
    machine = machine or Machine.detect()
    engines = () if runtime == Runtime.REFERENCE else fitting_engines(bundle, machine)
    if not engines and runtime == Runtime.AUTO:
        return None
    with open_decoder(bundle, runtime, machine) as session:
        if bundle.manifest.takes_source:
            with closing(open_sources(bundle, runtime, machine)) as pipeline:
                result = replay(session, golden, pipeline=pipeline)
        elif any(prompt.images for prompt in golden.prompts):
            with closing(open_pipeline(bundle, runtime, machine)) as vision:
                result = replay(session, golden, vision)
        else:
            result = replay(session, golden)
    return Proof(result, engines, _precision(bundle, engines, machine))


def _precision(bundle: Bundle, engines: Sequence[EngineRecord], machine: Machine) -> dict[str, PrecisionReport]:
    """The types of the products of each engine that tells them. TensorRT-RTX chooses kernels when it runs, and tells none."""
    reports: dict[str, PrecisionReport] = {}
    for engine in engines if bundle.has_network else ():
        flavour = machine.runtime_for(engine)
        assert flavour is not None
        text = layer_information(load(flavour), bundle.file(engine.file), holds_host_code=engine.version_compatible)
        network, _ = as_built(bundle, engine.part, engine)
        layers = parse_layers(text, network)
        if layers is not None:
            reports[engine.part] = compare_precision(network, layers)
    return reports


@dataclass(frozen=True)
class Search:
    """What a search found: the call that was looked into, the verdict, and the known faults of the release."""

    case: Case
    verdict: Verdict
    traps: tuple[Trap, ...] = ()

    def render(self) -> str:
        lines = [f"looked into {self.case.text}, part {self.case.part}:", self.verdict.render()]
        lines += [f"known of this release: {trap.finding()}" for trap in self.traps]
        return "\n".join(lines)


def search(
    bundle: Bundle,
    golden: GoldenSet,
    result: Replay,
    engines_of: Callable[[Case], Trial],
    engines: Sequence[EngineRecord] = (),
    progress: Callable[[Sequence[str], str], None] = lambda marked, outcome: None,
) -> tuple[Case, Verdict]:
    """Find what is wrong where ``result`` does not match: in the vision network or the encoder first.

    ``engines_of`` gives what builds debugging engines of a case and runs them. They are built in the form of the ``engines`` that
    answered, or as captured. Raises ``BundleError`` for a bundle without its
    network.
    """
    case = _case(bundle, golden, result, {engine.part: engine for engine in engines})
    yardstick = Yardstick(case.network, case.feeds, Graph(case.network).markable)
    return case, Bisection(case.network, yardstick, engines_of(case), case.results, progress=progress).run()


def _case(bundle: Bundle, golden: GoldenSet, result: Replay, engines: Mapping[str, EngineRecord]) -> Case:
    def decoder(vision: VisionPipeline | None, pipeline: SourcePipeline | None = None) -> Case:
        network, contract = as_built(bundle, DECODER, engines.get(DECODER))
        return decoder_case(DECODER, network, contract, golden, first_failure(result), vision, pipeline)

    wrong = next((f for f in result.features if not f.relative_error <= result.feature_tolerance), None)
    if golden.sources:
        with closing(open_sources(bundle, Runtime.REFERENCE)) as pipeline:
            if wrong is None:
                return decoder(None, pipeline)
            network, contract = as_built(bundle, ENCODER, engines.get(ENCODER))
            return encoder_case(ENCODER, network, contract, golden, wrong.image, pipeline)
    if not any(prompt.images for prompt in golden.prompts):
        return decoder(None)
    with closing(open_pipeline(bundle, Runtime.REFERENCE)) as vision:
        if wrong is None:
            return decoder(vision)
        network, contract = as_built(bundle, VISION, engines.get(VISION))
        return vision_case(VISION, network, contract, golden, wrong.image, vision)


def debugging_engines(bundle: Bundle) -> tuple[Callable[[Case], Trial], tuple[Trap, ...]]:
    """What builds debugging engines with the TensorRT that is here, and the known faults of that.

    Raises ``EngineError`` where there is no builder or no GPU.
    """
    tensorrt, capability = load(), local_compute_capability()
    if not tensorrt.can_build:
        raise EngineError(
            f"{tensorrt.flavour} {tensorrt.version} has no builder, so no debugging engine can be built; install the TensorRT "
            "that built the bundle's engines"
        )
    load_for_building(tensorrt, bundle.manifest.config)
    system, quant = read_system(), bundle.manifest.config.quantization.recipe
    situation = Situation(
        tensorrt.flavour.value,
        tensorrt.version,
        capability,
        system.release if system.kind == "jetson" else "",
        bundle.manifest.contract.max_batch,
        quant.format.value if quant is not None and quant.format is not None else "",
    )

    def of(case: Case) -> Trial:
        profiles = profiles_for(case.contract, tensorrt, capability)
        return TensorRTTrial(tensorrt, case.network, case.contract, profiles, case.feeds, case.profile)

    return of, tuple(traps_for(situation))
