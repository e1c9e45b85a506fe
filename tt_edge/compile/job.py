"""A compile, from a model to a bundle: one object whose stages are its methods.

Peak memory: the model's weights exist once in this process. Loading maps or reads them; export, lowering, conversion and
capture pass references on; the bundle's file and TensorRT's builder both read them where the model holds them; and the
engine goes from the builder to disk as a stream. So at the peak, which is inside the builder, there are the model's
weights and the builder's own copies (about two, measured; see docs/explanation/architecture.md).

The weights are written and hashed in a thread while the engine is built: neither needs much of Python.
"""

from __future__ import annotations

import gc
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tt_edge import tensorrt_api
from tt_edge.bundle.engines import build_evidence, build_record, engine_file
from tt_edge.bundle.manifest import DECODER, EngineRecord, Evidence, ModelIdentity, Word, part_file
from tt_edge.bundle.writer import BundleWriter
from tt_edge.compile.files import HostFiles
from tt_edge.compile.memory import release_memory
from tt_edge.compile.origin import Origin
from tt_edge.compile.part_sets import PartSet, part_set_of
from tt_edge.compile.report import CompileReport, PartReport
from tt_edge.compile.stages import Stages, peak_rss_mb
from tt_edge.config import (
    CompileConfig,
    EngineTarget,
    KVCacheType,
    Layout,
    PluginContract,
    TowerAttention,
    check_capability,
)
from tt_edge.errors import EngineError, InvalidInputError, UnsupportedModelError
from tt_edge.network.build import check_target
from tt_edge.network.legalize.serving import check_config, lacking_type, require_served
from tt_edge.network.storage import write_network
from tt_edge.platforms import parse_platform
from tt_edge.plugins.edgellm.library import load_for_building

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.bundle.engine_cache import EngineCache
    from tt_edge.compile.part import CompiledPart, PartCompiler
    from tt_edge.contract import IOContract
    from tt_edge.runtime.multimodal.sources import ImageSource


class CompileJob:
    """Compiles ``origin`` to a bundle at ``output``: ``run`` runs the stages in order.

    The bundle appears whole or not at all. ``fit_length`` lowers the lengths of ``config`` to the model's own limit where
    they exceed it, for callers that did not choose them. ``plugin_path`` is the plugin backend's library, for building
    engines; ``dump_graphs`` is a folder for the graph of each part before and after every lowering pass that changed it;
    ``engine_cache`` has engines of earlier builds; one prompt has room for ``images``, where ``config`` gives no number of image
    tokens.
    """

    def __init__(
        self,
        origin: Origin,
        output: Path,
        config: CompileConfig,
        target: EngineTarget,
        *,
        fit_length: bool = False,
        overwrite: bool = False,
        progress: bool = False,
        plugin_path: str | None = None,
        dump_graphs: Path | None = None,
        engine_cache: EngineCache | None = None,
        images: Sequence[ImageSource] = (),
    ) -> None:
        self.origin, self.output, self.config, self.target = origin, output, config, target
        self._fit_length, self._overwrite, self._plugin_path = fit_length, overwrite, plugin_path
        self._dump_graphs, self._engine_cache, self._images = dump_graphs, engine_cache, images
        self.stages = Stages(progress)
        self.files = HostFiles()
        self.quantized: dict[str, int] = {}
        self._kv_scales: list[tuple[float, float, float]] = []
        self._model: PreTrainedModel | None = None
        self._part_set: PartSet | None = None
        self._contracts: dict[str, IOContract] = {}
        self._parts: dict[str, PartReport] = {}
        self._engines: list[EngineRecord] = []

    def run(self) -> CompileReport:
        """Run all stages. Raises the errors of ``tt_edge.errors``."""
        try:
            with _no_garbage_collection():
                return self._run()
        finally:
            was_loaded = self._model is not None
            self._model, self._part_set = None, None
            if was_loaded:  # tracing leaves cycles that hold the weights; they must go before the next compile
                release_memory(cycles=True)

    def _run(self) -> CompileReport:
        with BundleWriter(self.output, overwrite=self._overwrite) as self._writer:
            self.check_target()  # before the slow part: a bad target is seen at once
            self.load()
            self.resolve_limits()
            self.quantize()
            self.collect_files()
            for compiler in self.compilers():
                dump = None if self._dump_graphs is None else self._dump_graphs / compiler.name
                self.build(compiler.compile(self.stages, dump))
            return self.finish()

    @property
    def model(self) -> PreTrainedModel:
        """The model; available after ``load``."""
        assert self._model is not None
        return self._model

    def check_target(self) -> None:
        """Check each engine target, and the recipe, against the installed TensorRT; and the folder of ``dump_graphs``."""
        if self._dump_graphs is not None:
            from tt_edge.lowering.dump import GraphDump

            GraphDump.check(self._dump_graphs)
        config, targets = self.config, self.target.targets
        if config.needs_plugins and config.network.precision not in config.plugin_precisions:
            contract = config.attention.plugin_contract
            is_own = contract is PluginContract.TT_EDGE
            name, native = "tt-edge's attention plugin" if is_own else "AttentionPlugin", "--backend"
            if contract is None or (is_own and config.vision.attention is TowerAttention.PLUGIN):
                name, native = "ViTAttentionPlugin", "--vision-attention"
            raise UnsupportedModelError(
                f"{name} computes in {' and '.join(config.plugin_precisions)} only, and precision is {config.network.precision}; "
                f"compile with --precision fp16, or use {native} native"
            )
        if config.network.layout is Layout.EDGE_LLM and len(targets) > 1:
            raise InvalidInputError("the edge-llm layout has room for one engine; give one --engine target, or none")
        if targets:
            load_for_building(tensorrt_api.load(), config, self._plugin_path)
        for target in targets:
            capability = check_target(tensorrt_api.load(), target)
            if reason := lacking_type({config.network.precision.dtype}, capability):
                raise EngineError(f"precision {reason}; compile with --precision fp16, or another --engine target")
        for platform in self.target.platforms:
            check_config(config, parse_platform(platform))
        self._check_formats(() if config.quantization.recipe is None else sorted(config.quantization.recipe.formats))

    def _check_formats(self, formats: tuple[str, ...] | list[str]) -> None:
        """Raise ``EngineError`` for a target that this TensorRT does not build for, or that lacks a format's types."""
        for target in self.target.targets:
            capability = check_target(tensorrt_api.load(), target)
            for format in formats:
                check_capability(format, capability)

    def load(self) -> None:
        """Read the tokenizer and processor files, and the model."""
        self.files.update(self.origin.files())
        calibration = self.origin.calibration() if self.config.quantization.recipe is not None else None
        if calibration is not None and self.config.quantization.recipe is not None:
            calibration.check(self.config.quantization.recipe)
        with self.stages.stage("load"):
            self._model = self.origin.load(self.config.network.precision)
        self.identity = _identity(self.model, self.origin)

    def resolve_limits(self) -> None:
        """Find the parts of the model, and resolve every limit, before any part is compiled."""
        self._part_set = part_set_of(self.model, self._images)
        self.config = self._part_set.resolve(self.config, self.origin.source, self.files, fit=self._fit_length)

    def quantize(self) -> None:
        """Calibrate and quantize as ``config`` says; count layers that the checkpoint already has quantized."""
        from tt_edge.compile.checkpoint.load_quantized import quantized_layers
        from tt_edge.compile.checkpoint.tokenizer_files import generation_settings
        from tt_edge.compile.seq2seq.image_text import text_model

        assert self._part_set is not None
        self.files["generation_config.json"] = generation_settings(text_model(self.model))
        self._part_set.check_generation(self.files["generation_config.json"], self.origin.source)
        formats = [str(layer.format) for layer in quantized_layers(self.model)]
        self._check_formats(sorted(set(formats)))
        self.quantized = dict(Counter(formats))
        files = HostFiles(self.files | {"config.json": _config_json(self.model)})
        if self.config.attention.kv_cache is KVCacheType.FP8:
            with self.stages.stage("calibrate"):
                self._kv_scales = self.origin.calibration().kv_scales(self.model, files)
        if self.config.quantization.recipe is not None:
            from tt_edge.compile.quantize.calibrate import STATISTICS_FILE
            from tt_edge.compile.quantize.stage import quantize

            with self.stages.stage("quantize"):
                self.quantized, statistics = quantize(
                    self.model, self.config.quantization.recipe, self.origin.calibration(), files, show=self.stages.show
                )
            self.files[STATISTICS_FILE] = statistics

    def collect_files(self) -> None:
        """Write the files that the runtime reads: the tokenizer's, and those generated here."""
        if self.config.network.layout is Layout.EDGE_LLM:
            from tt_edge.compile.edge_llm_layout import edge_llm_files

            self.files.update(edge_llm_files(self.model, self.config, self.files))
        else:
            self.files["config.json"] = _config_json(self.model)
        for name, content in self.files.items():
            self._writer.write_bytes(name, content)

    def compilers(self) -> Iterator[PartCompiler]:
        """A compiler for each part of the model, in the order in which parts are built."""
        assert self._part_set is not None
        return self._part_set.compilers(self.config, self.origin.name, self._kv_scales)

    def build(self, part: CompiledPart) -> None:
        """Write a part's network while its engines are built.

        Raises ``EngineError``, before any engine is built, if a platform that the bundle must serve cannot build it.
        """
        for platform in self.target.platforms:
            require_served([part.network], parse_platform(platform))
        self._contracts[part.name] = part.contract
        engine_layers = 0
        with ThreadPoolExecutor(1, "tt-edge-write") as pool:
            writing = pool.submit(
                write_network, part.network, lambda name: self._writer.open(part_file(part.name, name))
            )
            for target in self.target.targets:
                with self.stages.stage("build"):
                    engine_layers = self._build_engine(part, target)
            with self.stages.stage("write"):
                writing.result()
        self._parts[part.name] = PartReport.of(part, engine_layers)

    def _build_engine(self, part: CompiledPart, target: str | None) -> int:
        """Build one engine; the number of layers of its network definition.

        One after the other: two builds in one process for different GPUs fail (TensorRT-RTX 1.6.1 keeps the target in
        memory of the process).
        """
        tensorrt, layout = tensorrt_api.load(), self.config.network.layout
        file = engine_file(tensorrt, check_target(tensorrt, target), layout, part.name)
        with self._writer.open(file) as destination:
            record, layers = build_record(
                part.network,
                part.contract,
                target,
                destination,
                show=self.stages.show,
                layout=layout,
                part=part.name,
                cache=self._engine_cache,
            )
        self._engines.append(record)
        return layers

    def finish(self) -> CompileReport:
        """Record the evidence in the manifest, and move the bundle to its place."""
        for engine in self._engines:
            self._writer.add_engine(engine)
        for name in sorted(self._parts, key=lambda name: name != DECODER):
            claim = "network" if name == DECODER else f"{name} network"
            how = "captured; run `tt-edge verify --model` to evaluate it"
            self._writer.add_evidence(Evidence(claim, Word.NOT_EXECUTED, how))
        for engine in self._engines:
            self._writer.add_evidence(build_evidence(engine))
        with self.stages.stage("finish"):
            seconds = {name: round(value, 2) for name, value in self.stages.seconds.items()}
            self._writer.commit(self.identity, self.config, self._contracts, seconds)
        return CompileReport(
            self.output,
            self.identity,
            self.config,
            self._parts,
            engines=self._engines,
            quantized=self.quantized,
            seconds=self.stages.seconds,
            peak_rss_mb=peak_rss_mb(),
        )


def _config_json(model: PreTrainedModel) -> bytes:
    text: str = model.config.to_json_string(use_diff=False)
    return (text + "\n").encode()


def _identity(model: PreTrainedModel, origin: Origin) -> ModelIdentity:
    from tt_edge.compile.checkpoint.load_quantized import parameter_count

    return ModelIdentity(
        architecture=type(model).__name__,
        model_type=str(model.config.model_type),
        name=origin.name,
        source=origin.source,
        parameters=parameter_count(model),
        config_sha256=hashlib.sha256(_config_json(model).removesuffix(b"\n")).hexdigest(),
        quantization=origin.quantization,
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable cyclic garbage collection in the block.

    Tracing makes a million objects that live to the end. For Qwen2.5-0.5B, scanning them again and again took 1.4 of 7 s
    and freed 15 MB.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
