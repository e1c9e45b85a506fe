"""Building engines for bundles. Torch-free."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import BinaryIO

from tt_edge import tensorrt_api
from tt_edge.bundle.engine_cache import EngineCache, KeptEngine, cache_key
from tt_edge.bundle.manifest import DECODER, EngineRecord, Evidence, Word
from tt_edge.bundle.reader import Bundle
from tt_edge.bundle.update import NewEngine
from tt_edge.config import Layout
from tt_edge.contract import IOContract, ShapeRange
from tt_edge.errors import InvalidInputError
from tt_edge.network.build import check_target
from tt_edge.network.build_io import ProgressBars, Writable
from tt_edge.network.build_legal import build_legal
from tt_edge.network.build_options import BuildOptions, least_profile_batch
from tt_edge.network.ir import Network

_LOGGER = logging.getLogger("tt_edge")


def engine_file(
    tensorrt: tensorrt_api.TensorRT, capability: str, layout: Layout = Layout.TT_EDGE, part: str = DECODER
) -> str:
    """The file name in a bundle of an engine by this TensorRT for a compute capability."""
    if layout is Layout.EDGE_LLM:
        return "llm.engine"
    return f"engines/{part}-{tensorrt.flavour}-{tensorrt.version}-{tensorrt.platform}-{capability}.engine"


def build_evidence(record: EngineRecord) -> Evidence:
    """The evidence for an engine that has been built and not run."""
    what = "engine" if record.part == DECODER else f"{record.part} engine"
    claim = f"{what} for {record.compute_capability}, {record.flavour} {record.tensorrt_version}"
    how = f"{record.bytes / 1e6:,.1f} MB in {record.build_seconds:.1f} s{record.replaced}"
    return Evidence(claim, Word.BUILT, how)


def build_record(
    network: Network,
    contract: IOContract,
    target: str | None,
    destination: BinaryIO,
    *,
    show: bool,
    options: BuildOptions | None = None,
    layout: Layout = Layout.TT_EDGE,
    part: str = DECODER,
    cache: EngineCache | None = None,
) -> tuple[EngineRecord, int]:
    """Build one engine into ``destination``. Returns its record, and the number of layers of its network definition.

    ``target`` is such as ``sm89``, or ``None`` for the local GPU. With a ``cache``, an engine that it has is copied; the
    record is then that of the build. Raises what ``build_engine`` raises.
    """
    tensorrt = tensorrt_api.load()
    key, settings = None, (layout.value, part)
    if cache is not None:
        key = cache_key(tensorrt, network, contract, target, options or BuildOptions(), settings)
    if cache is None or key is None:
        return _build(tensorrt, network, contract, target, destination, show, options, layout, part)
    if (found := cache.fetch(key, destination)) is not None:
        return found
    with KeptEngine(cache, key, destination) as file:
        record, layers = _build(tensorrt, network, contract, target, file, show, options, layout, part)
        file.keep(record, layers)
    return record, layers


def _build(
    tensorrt: tensorrt_api.TensorRT,
    network: Network,
    contract: IOContract,
    target: str | None,
    destination: Writable,
    show: bool,
    options: BuildOptions | None,
    layout: Layout,
    part: str,
) -> tuple[EngineRecord, int]:
    capability = check_target(tensorrt, target)
    bars = ProgressBars(f"build {'' if part == DECODER else f'{part} '}{capability}") if show else None
    try:
        legal = build_legal(
            tensorrt,
            network,
            contract,
            lambda own: profiles_for(own, tensorrt, capability),
            target,
            destination,
            progress=bars,
            options=options,
        )
    finally:
        if bars is not None:
            bars.close()
    for reason in legal.refused:
        _LOGGER.warning("a newer form of the network was refused, so the engine has %s: %s", legal.form, reason)
    built = legal.build
    limits, own = contract.limits, legal.contract.limits
    record = EngineRecord(
        file=engine_file(tensorrt, capability, layout, part),
        flavour=built.flavour,
        tensorrt_version=built.tensorrt_version,
        platform=built.platform,
        compute_capability=built.compute_capability,
        bytes=built.bytes,
        build_seconds=round(built.seconds, 3),
        version_compatible=built.options.version_compatible,
        stripped=built.options.strip_weights,
        part=part,
        form=legal.form.name,
        max_input_len=own.max_input_len if own.max_input_len < limits.max_input_len else 0,
        max_image_tokens=own.max_image_tokens or 0 if own.max_image_tokens != limits.max_image_tokens else 0,
    )
    return record, built.layers


def profiles_for(
    contract: IOContract, tensorrt: tensorrt_api.TensorRT, capability: str
) -> tuple[dict[str, ShapeRange], ...]:
    """The contract's optimization profiles, with a larger batch if this TensorRT computes wrong results with a smaller one."""
    batch = max(contract.limits.max_batch, least_profile_batch(tensorrt, capability))
    return replace(contract, limits=replace(contract.limits, max_batch=batch)).profiles()


def add_engine(
    bundle: Bundle,
    target: str | None,
    *,
    show: bool = True,
    options: BuildOptions | None = None,
    part: str = DECODER,
    cache: EngineCache | None = None,
) -> EngineRecord:
    """Build a network of the bundle for ``target`` with the TensorRT that is installed, and add the engine to the bundle.

    If the build fails, the bundle is unchanged; an older engine under the same key is replaced once the new one is complete.
    A signature of the bundle is invalid afterwards. Raises the errors of ``Bundle.network`` and ``build_engine``.
    """
    layout = bundle.manifest.config.network.layout
    if layout is Layout.EDGE_LLM and bundle.manifest.engines:
        raise InvalidInputError(
            f"{bundle.path} has its llm.engine already, and room for one; compile again to replace it"
        )
    network = bundle.network(part)
    with NewEngine(bundle.folder) as engine:
        record, _ = build_record(
            network,
            bundle.manifest.part(part),
            target,
            engine.file,
            show=show,
            options=options,
            layout=layout,
            part=part,
            cache=cache,
        )
        return engine.commit(record, build_evidence(record))
