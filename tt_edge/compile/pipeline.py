"""From a checkpoint to a bundle, stage by stage.

Peak memory: the model's weights exist once in this process. Loading maps or reads them; export, lowering, conversion and
capture pass references on; the bundle's file and TensorRT's builder both read them where the model holds them; and the
engine goes from the builder to disk as a stream. So at the peak, which is inside the builder, there are the model's
weights and the builder's own copies (about two, measured; see docs/architecture.md).

The weights are written and hashed in a thread while the engine is built: neither needs much of Python.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tt_edge import tensorrt_api
from tt_edge.bundle.engines import build_evidence, build_record, engine_file
from tt_edge.bundle.manifest import EngineRecord, Evidence, ModelIdentity, Part
from tt_edge.bundle.writer import BundleWriter
from tt_edge.compile.report import CompileReport
from tt_edge.compile.stages import Stages, peak_rss_mb
from tt_edge.config import Backend, CompileConfig, EngineTarget, Layout, Precision, TowerAttention
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.network.build import check_target
from tt_edge.network.storage import write_network
from tt_edge.plugins.edgellm.library import load_for_building
from tt_edge.quant_config import KVCacheType

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tt_edge.compile.convert import Converted
    from tt_edge.compile.quantize.data import CalibrationData
    from tt_edge.compile.quantize.stage import KVCacheStage, QuantizeStage
    from tt_edge.contract import EngineContract
    from tt_edge.lowering.pipeline import LoweringReport
    from tt_edge.network.ir import Network
    from tt_edge.vision_contract import VisionContract


def compile_checkpoint(
    source: str,
    output: Path,
    config: CompileConfig,
    target: EngineTarget,
    *,
    fit_length: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    plugin_path: str | None = None,
    tokenizer: str | None = None,
    calibration: CalibrationData | None = None,
) -> CompileReport:
    """Compile a checkpoint folder or hub id to a bundle at ``output``.

    Either the whole bundle is there in the end or nothing is. ``fit_length`` lowers the lengths of ``config`` to the
    model's own limit where they exceed it, for callers that did not choose them. ``plugin_path`` is the plugin backend's
    library, for building engines; ``tokenizer`` is a checkpoint to take the tokenizer from, if not ``source``;
    ``calibration`` is what ``config.quant`` is calibrated on (default: the built-in text). Raises the errors of
    ``tt_edge.errors``.
    """
    from tt_edge.compile.checkpoint.load import load_model
    from tt_edge.compile.checkpoint.tokenizer_files import processor_files, tokenizer_files

    stages = Stages(progress)
    with BundleWriter(output, overwrite=overwrite) as writer:
        targets = _targets(target, config, plugin_path)  # before the slow part: a bad target is seen at once
        # A processor's chat template goes before its tokenizer's.
        for name, content in (dict(tokenizer_files(tokenizer or source)) | dict(processor_files(source))).items():
            writer.write_bytes(name, content)

        def load() -> PreTrainedModel:
            with stages.stage("load"):
                return load_model(source, config.precision)

        quantize = None
        if config.quant is not None:
            from tt_edge.compile.quantize.stage import quantize_checkpoint

            quantize = quantize_checkpoint(source, config.quant, calibration, tokenizer or source, stages.show)
        kv_cache = None
        if config.kv_cache is KVCacheType.FP8:
            from tt_edge.compile.quantize.stage import kv_cache_of_checkpoint

            kv_cache = kv_cache_of_checkpoint(source, calibration, tokenizer or source)
        return _compile(load, source, writer, output, config, targets, stages, fit_length, quantize, kv_cache)


def compile_model(
    model: Callable[[], PreTrainedModel],
    output: Path,
    config: CompileConfig,
    target: EngineTarget,
    *,
    name: str = "model",
    overwrite: bool = False,
    progress: bool = False,
    batches: Sequence[torch.Tensor] = (),
) -> CompileReport:
    """Compile a model that is made in memory, without a tokenizer.

    ``model`` makes it; it is a function so that making it overlaps with the imports. ``batches`` of token ids ``[B, S]``
    are what ``config.quant`` is calibrated on.
    """
    with BundleWriter(output, overwrite=overwrite) as writer:
        targets, quantize = _targets(target, config), None
        if config.quant is not None:
            from tt_edge.compile.quantize.stage import quantize_with

            quantize = quantize_with(config.quant, batches)
        kv_cache = None
        if config.kv_cache is KVCacheType.FP8:
            from tt_edge.compile.quantize.kv_cache import calibrate_kv_cache

            def kv_cache(model: PreTrainedModel, _: BundleWriter) -> list[tuple[float, float, float]]:
                return calibrate_kv_cache(model, [{"input_ids": ids} for ids in batches])

        stages = Stages(progress)
        return _compile(model, name, writer, output, config, targets, stages, quantize=quantize, kv_cache=kv_cache)


def _targets(target: EngineTarget, config: CompileConfig, plugin_path: str | None = None) -> list[str | None]:
    """Engine targets to build, ``None`` for the local GPU, each checked against the installed TensorRT."""
    if config.needs_plugins and config.precision is not Precision.FP16:
        of_backend = config.backend is Backend.PLUGIN
        name, native = ("AttentionPlugin", "--backend") if of_backend else ("ViTAttentionPlugin", "--vision-attention")
        raise UnsupportedModelError(
            f"{name} computes in fp16 alone, and precision is {config.precision}; compile with --precision fp16, or use "
            f"{native} native"
        )
    targets = target.targets
    if config.layout is Layout.EDGE_LLM and len(targets) > 1:
        raise InvalidInputError("the edge-llm layout has room for one engine; give one --engine target, or none")
    if targets:
        tensorrt = tensorrt_api.load()
        load_for_building(tensorrt, config, plugin_path)
        for wanted in targets:
            capability = check_target(tensorrt, wanted)
            if config.quant is not None:
                config.quant.check_capability(capability)
    return targets


def _compile(
    make_model: Callable[[], PreTrainedModel],
    source: str,
    writer: BundleWriter,
    output: Path,
    config: CompileConfig,
    targets: list[str | None],
    stages: Stages,
    fit_length: bool = False,
    quantize: QuantizeStage | None = None,
    kv_cache: KVCacheStage | None = None,
) -> CompileReport:
    from tt_edge.compile.checkpoint.tokenizer_files import generation_settings
    from tt_edge.compile.vision.families import family_of
    from tt_edge.compile.vision.network import compile_vision

    model = make_model()
    identity = _identity(model, source)
    config, vision = _within_model(model, config, fit_length), None
    family = family_of(model)
    if family is None:
        _check_takes_no_images(model, config)
    for name, content in _config_files(model, config, writer):
        writer.write_bytes(name, content)
    writer.write_bytes("generation_config.json", generation_settings(model))
    quantized = _quantized_already(model, targets)
    kv_scales: list[tuple[float, float, float]] = []
    if kv_cache is not None:
        with stages.stage("calibrate"):
            kv_scales = kv_cache(model, writer)
    if quantize is not None:
        with stages.stage("quantize"):
            quantized = quantize(model, writer)
    engines: list[EngineRecord] = []
    with _no_garbage_collection():
        if family is not None:
            with stages.stage("vision"):
                vision = compile_vision(model, family, config, os.path.basename(source.rstrip("/")) or "model")
            config = vision.config
            engines += _write_and_build(Part.VISION, vision.network, vision.contract, writer, config, targets, stages)[
                0
            ]
        converted, lowering, before = _network(model, config, source, stages, kv_scales)
    network, contract = converted.network, converted.contract
    report = CompileReport(
        output, identity, config, lowering, before, len(network.layers), sum(network.weight_bytes().values())
    )
    report.quantized = quantized
    if vision is not None:
        report.vision_layers = len(vision.network.layers)
        report.vision_weight_bytes = sum(vision.network.weight_bytes().values())
    built, report.engine_layers = _write_and_build(Part.LLM, network, contract, writer, config, targets, stages)
    report.engines = [*engines, *built]
    for record in report.engines:
        writer.add_engine(record)
    for claim in ("network", "vision network")[: 1 if vision is None else 2]:
        writer.add_evidence(Evidence(claim, "not executed", "captured; run `tt-edge verify --model` to evaluate it"))
    for record in report.engines:
        writer.add_evidence(build_evidence(record))
    with stages.stage("finish"):
        writer.commit(identity, config, contract, None if vision is None else vision.contract)
    report.seconds, report.peak_rss_mb = stages.seconds, peak_rss_mb()
    return report


def _check_takes_no_images(model: PreTrainedModel, config: CompileConfig) -> None:
    """Raise ``InvalidInputError`` for settings of a vision tower that the model does not have."""
    given = {
        "--max-image-tokens": config.max_image_tokens is not None,
        "--min-image-tokens": config.min_image_tokens is not None,
        "--vision-attention": config.vision_attention is not TowerAttention.NATIVE,
    }
    if any(given.values()):
        options = " and ".join(name for name, is_given in given.items() if is_given)
        raise InvalidInputError(f"{type(model).__name__} takes no images; leave {options}")


def _write_and_build(
    part: Part,
    network: Network,
    contract: EngineContract | VisionContract,
    writer: BundleWriter,
    config: CompileConfig,
    targets: list[str | None],
    stages: Stages,
) -> tuple[list[EngineRecord], int]:
    """Write a network while its engines are built; their records, and the layers of the last one's definition."""
    records, layers = [], 0
    with ThreadPoolExecutor(1, "tt-edge-write") as pool:
        writing = pool.submit(write_network, network, lambda name: writer.open(part.file(name)))
        for target in targets:
            with stages.stage("build"):
                tensorrt = tensorrt_api.load()
                file = engine_file(tensorrt, check_target(tensorrt, target), config.layout, part)
                with writer.open(file) as destination:
                    record, layers = build_record(
                        network, contract, target, destination, show=stages.show, layout=config.layout, part=part
                    )
            records.append(record)
        with stages.stage("write"):
            writing.result()
    return records, layers


def _quantized_already(model: PreTrainedModel, targets: list[str | None]) -> dict[str, int]:
    """Linear layers by format of a quantized checkpoint; raises ``EngineError`` for a target that lacks the type."""
    from tt_edge.compile.checkpoint.load_quantized import quantized_layers
    from tt_edge.quant_config import check_capability

    formats = [str(layer.format) for layer in quantized_layers(model)]
    for target in targets if formats else []:
        capability = check_target(tensorrt_api.load(), target)
        for format in sorted(set(formats)):
            check_capability(format, capability)
    return dict(Counter(formats))


def _config_files(model: PreTrainedModel, config: CompileConfig, writer: BundleWriter) -> Iterator[tuple[str, bytes]]:
    """What the runtime reads beside the tokenizer: the checkpoint's configuration, or what NVIDIA's runtime wants."""
    if config.layout is Layout.TT_EDGE:
        yield "config.json", (model.config.to_json_string(use_diff=False) + "\n").encode()
        return
    from tt_edge.compile.edge_llm_layout import edge_llm_files
    from tt_edge.runtime.text.chat_template import ChatTemplate
    from tt_edge.runtime.text.tokenizer import special_tokens_of

    template, settings = (writer.path / name for name in ("chat_template.jinja", "tokenizer_config.json"))
    tokens = special_tokens_of(json.loads(settings.read_bytes())) if settings.is_file() else {}
    chat = ChatTemplate(template.read_text("utf-8"), tokens) if template.is_file() else None
    yield from edge_llm_files(model, config, chat)


def _network(
    model: PreTrainedModel,
    config: CompileConfig,
    name: str,
    stages: Stages,
    kv_scales: Sequence[tuple[float, float, float]] = (),
) -> tuple[Converted, LoweringReport, int]:
    """Export, lower, convert, capture and tidy; the last result is the number of layers before tidying."""
    from tt_edge.compile.convert import convert, converters
    from tt_edge.compile.export.decoder import export_decoder
    from tt_edge.lowering.base import LoweringContext
    from tt_edge.lowering.pipeline import lower, passes_for
    from tt_edge.network.simplify import simplify

    with stages.stage("export"):
        module = export_decoder(model, config.max_seq_len, config.max_batch * (config.max_image_tokens or 0))
    with stages.stage("load"):  # torch_tensorrt, which knows what it converts
        known = converters()
    layers = int(model.config.get_text_config().num_hidden_layers)
    context = LoweringContext(config, layers, kv_scales=kv_scales, converters=known)
    with stages.stage("lower"):
        lowering = lower(module, passes_for(config), context)
    with stages.stage("convert"):
        converted = convert(module, context, os.path.basename(name.rstrip("/")) or "model")
        before = len(converted.network.layers)
        simplify(converted.network)
    return converted, lowering, before


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect no cycles in the block, and leave what it made out of later collections.

    Tracing makes a million objects that live to the end. For Qwen2.5-0.5B, looking through them again and again took 1.4 of
    7 s and freed 15 MB; doing so once more when the interpreter exits took another second.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _identity(model: PreTrainedModel, source: str) -> ModelIdentity:
    from tt_edge.compile.checkpoint.load_quantized import parameter_count
    from tt_edge.compile.checkpoint.prequantized import detect

    found = detect(source) if os.path.isdir(source) else None
    quantization = str(found) if found is not None else ""
    config = model.config.to_json_string(use_diff=False)
    return ModelIdentity(
        architecture=type(model).__name__,
        model_type=str(model.config.model_type),
        name=os.path.basename(source.rstrip("/")) or source,
        source=source,
        parameters=parameter_count(model),
        config_sha256=hashlib.sha256(config.encode()).hexdigest(),
        quantization=quantization,
    )


def _within_model(model: PreTrainedModel, config: CompileConfig, fit: bool) -> CompileConfig:
    """``config``, its lengths within what the model was made for: lowered if ``fit``, or else refused."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None or config.max_seq_len <= limit:
        return config
    if fit:
        return replace(config, max_seq_len=limit, max_input_len=min(config.max_input_len, limit))
    raise InvalidInputError(
        f"max_seq_len {config.max_seq_len} exceeds the model's max_position_embeddings {limit}; "
        f"compile with --max-seq-len {limit} or less"
    )
