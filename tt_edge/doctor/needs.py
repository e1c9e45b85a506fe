"""What a bundle needs of a machine: an engine that fits or a TensorRT to build one with, memory, disk, a plugin library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import product
from typing import TYPE_CHECKING

from tt_edge.bundle.manifest import DECODER, EngineRecord, part_file
from tt_edge.config import PluginContract
from tt_edge.doctor.facts import Facts, trap_findings
from tt_edge.doctor.findings import Finding, size
from tt_edge.doctor.gpu import Gpu
from tt_edge.doctor.software import Package
from tt_edge.errors import EngineError
from tt_edge.network.legalize.form import Form
from tt_edge.network.legalize.legalize import legalize
from tt_edge.network.legalize.serving import lacking_type, types_of
from tt_edge.network.storage import WEIGHTS_FILE
from tt_edge.runtime.engine.choose import Machine
from tt_edge.tensorrt_features import FEATURES

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle

#: From this size on, an engine is large: its file is mapped and read once, page by page.
_LARGE = 4 << 30


def bundle_findings(facts: Facts, bundle: Bundle, machine: Machine | None = None) -> Iterator[Finding]:
    """What follows for ``bundle`` on ``machine`` (default: this one), known faults included."""
    manifest = bundle.manifest
    machine = machine or Machine.detect()
    fitting: list[EngineRecord] = []
    for part in manifest.parts:
        engines = manifest.engines_of(part)
        here = [engine for engine in engines if machine.misfit(engine) is None]
        fitting += here[:1]
        if here:
            yield Finding("ok", f"{part} engine", f"{here[0].file} runs here ({here[0].bytes / 1e6:,.1f} MB)")
        else:
            why = "; ".join(f"{e.file}: {machine.misfit(e)}" for e in engines) or "the bundle has none"
            yield _without_engine(facts, bundle, part, why)
    yield from _forms(facts, bundle)
    yield from _plugins(facts, bundle)
    yield from _memory(facts, bundle, fitting)
    quant = manifest.config.quantization.recipe
    largest = max((engine.bytes for engine in fitting), default=max(_weights(bundle)))
    yield from trap_findings(
        facts,
        max_batch=manifest.contract.max_batch,
        quantization=str(quant.format.value) if quant is not None and quant.format is not None else "",
        largest=largest,
    )


def _without_engine(facts: Facts, bundle: Bundle, part: str, why: str) -> Finding:
    """No engine of ``part`` runs here: whether one can be built, or the reference evaluates the network."""
    topic, text = f"{part} engine", f"no {part} engine runs here ({why})"
    if not bundle.has_network:
        return Finding("wrong", topic, text, "it ships engines only: build one from the bundle that it was made from")
    if isinstance(facts.gpu, Gpu) and facts.usable:
        return Finding("warning", topic, text, f"build one with `tt-edge build {bundle.path}`")
    if facts.system.is_device:
        return Finding("wrong", topic, text, "see what is said of GPU and TensorRT, then run `tt-edge build`")
    return Finding("note", topic, text, "the reference session evaluates the network, slowly")


def _forms(facts: Facts, bundle: Bundle) -> Iterator[Finding]:
    """The form that each TensorRT here would build the networks in, or why it, or the GPU, would not."""
    parts = bundle.manifest.parts if bundle.has_network else ()
    for part in parts:
        types = types_of([bundle.network(part)])
        if isinstance(facts.gpu, Gpu) and (reason := lacking_type(types, facts.gpu.compute_capability)):
            yield Finding("wrong", f"{part} types", reason, "compile in another precision or format")
    for package, part in product((package for package in facts.usable if package.has_builder), parts):
        name = f"{package.flavour} {package.version}"
        try:
            form = _form(package, bundle, part)
        except EngineError as error:
            yield Finding("wrong", f"{part} form", str(error))
        else:
            yield Finding(
                "ok", f"{part} form", f"{name} builds it {'as captured' if not form.replaced else f'with {form}'}"
            )


def _form(package: Package, bundle: Bundle, part: str) -> Form:
    """The form that a TensorRT builds a part in. Raises ``EngineError`` where it has none."""
    available = {feature for feature in FEATURES if feature.name in package.features}
    return legalize(bundle.network(part), available, f"{package.flavour} {package.version}").form


def _caches(facts: Facts, bundle: Bundle, fitting: Sequence[EngineRecord]) -> int:
    """How many KV caches are held: two where the cache goes through the network, in the engine that runs or would be built."""
    forms = [Form.parse(engine.form) for engine in fitting if engine.part == DECODER]
    if not forms and bundle.has_network:
        for package in facts.usable:
            with suppress(EngineError):
                forms += [_form(package, bundle, DECODER)] if package.has_builder else []
    in_place = bundle.manifest.contract.kv_in_place and (not forms or forms[0].in_place)
    return 1 if in_place else 2


def _plugins(facts: Facts, bundle: Bundle) -> Iterator[Finding]:
    config, library = bundle.manifest.config, facts.library
    if not config.needs_plugins:
        return
    contract = config.attention.plugin_contract
    wanted = f"the bundle needs a plugin library of contract {contract}"
    # tt-edge's own library also has the plugins of 0.9.1.
    also = [PluginContract.V0_9_1] if library is not None and library.contract == PluginContract.TT_EDGE else []
    if library is None:
        get = "tt-edge plugin build" if contract is PluginContract.TT_EDGE else "pip install tensorrt-edgellm"
        yield Finding("wrong", "plugins", f"{wanted}, and none is installed", get)
    elif library.contract and contract not in (library.contract, *also):
        yield Finding("wrong", "plugins", f"{wanted}; {library.path} is of contract {library.contract}")


def _memory(facts: Facts, bundle: Bundle, fitting: Sequence[EngineRecord]) -> Iterator[Finding]:
    """Whether engines, or weights, and the KV cache fit; activations come on top, and only TensorRT knows them."""
    contract, parts = bundle.manifest.contract, bundle.manifest.parts
    cache = contract.kv_bytes(contract.max_batch) * _caches(facts, bundle, fitting)
    tables = sum(t.dtype.nbytes(math.prod(t.resolve(**contract.largest))) for t in contract.feature_tables)
    sources = sum(t.dtype.nbytes(math.prod(t.resolve(**contract.largest))) for t in contract.cross)
    complete = len(fitting) == len(parts)
    held = sum(engine.bytes for engine in fitting) if complete else sum(_weights(bundle))
    needed = held + cache + tables + sources
    what = "engines" if complete else "weights"
    text = f"{what} {size(held)}, KV cache {size(cache)} at {contract.max_batch} x {contract.max_seq_len:,} tokens"
    if tables:
        text += f", image features {size(tables)}"
    if sources:
        text += f", keys and values of sources {size(sources)}"
    gpu = facts.gpu
    free = gpu.memory_free if isinstance(gpu, Gpu) and not gpu.integrated else facts.memory.available
    if not free:
        yield Finding("note", "memory needed", f"{text}, and activations")
    elif needed > free:
        lower = "compile with a smaller --max-batch or --max-seq-len, quantize, or free memory"
        yield Finding("wrong", "memory needed", f"{text}; {size(free)} are free", lower)
    else:
        yield Finding("ok", "memory needed", f"{text}, and activations; {size(free)} are free")
    if not complete and bundle.has_network and isinstance(gpu, Gpu):
        peak = 2 * max(_weights(bundle)) + (
            1 << 30
        )  # docs/explanation/architecture.md: nearly two copies, and the libraries
        level = "ok" if peak <= facts.memory.available + facts.memory.swap_free else "warning"
        yield Finding(level, "memory to build", f"about {size(peak)} while TensorRT builds")  # type: ignore[arg-type]
        if facts.disk_free < 2 * max(_weights(bundle)):
            yield Finding(
                "wrong", "disk", f"{size(facts.disk_free)} free where an engine of {size(held)} is to be written"
            )
    if held >= _LARGE and facts.system.kind in ("jetson", "drive") and facts.memory.transparent == "never":
        yield Finding(
            "note",
            "huge pages",
            f"transparent huge pages are off, and {what} of {size(held)} are mapped in small pages",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        )


def _weights(bundle: Bundle) -> list[int]:
    """Bytes of the weights of each part; of its largest engine where the bundle has no network."""
    manifest = bundle.manifest
    sizes = []
    for part in manifest.parts:
        record = manifest.files.get(part_file(part, WEIGHTS_FILE))
        sizes.append(record.size if record else max((e.bytes for e in manifest.engines_of(part)), default=0))
    return sizes
