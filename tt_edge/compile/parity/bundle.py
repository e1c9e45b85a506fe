"""Comparing a bundle with the checkpoint that it was compiled from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from tt_edge.bundle.manifest import ENCODER, VISION
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.tokenizer_files import has_tokenizer
from tt_edge.compile.parity.golden import GoldenMaker
from tt_edge.compile.parity.images.features import compare_preprocessing
from tt_edge.compile.parity.logits import check_parity
from tt_edge.compile.parity.prompts import default_pictures
from tt_edge.compile.parity.references.loading import exact_reference, load_reference
from tt_edge.compile.parity.report import ParityReport
from tt_edge.compile.parity.texts import compare_settings, compare_tokenizer
from tt_edge.config import Precision
from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError, ParityError
from tt_edge.network.ir import Network
from tt_edge.network.plugins import KINDS, plugin_fields
from tt_edge.runtime.multimodal.images import ImageFile, pixels_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.bundle.reader import Bundle
    from tt_edge.runtime.seq2seq.pipeline import SourcePipeline


def verify_bundle(
    bundle: Bundle,
    model: Checkpoint | str | os.PathLike[str] | PreTrainedModel,
    *,
    new_tokens: int = 32,
    seed: int = 0,
    images: Sequence[ImageFile] = (),
    maker: GoldenMaker | None = None,
) -> ParityReport:
    """Compare a bundle with the checkpoint it was compiled from.

    ``model`` is the checkpoint, its folder or hub id, or the loaded module. A checkpoint is loaded by transformers
    (``load_reference``), not by the loader of a compile; its tokenizer and generation settings are compared with the
    bundle's, too. If the bundle is quantized, the PyTorch model is quantized in the same way (a loaded module in place),
    with the calibration statistics in the bundle: the check finds errors of the compile, not the loss of accuracy by
    quantization, which ``tt-edge eval`` measures.

    For a vision-language model the preprocessing (if the checkpoint is a folder or id) and the tower are compared as
    well, and prompts with images: ``images``, or two synthetic ones. Raises ``ParityError`` when the checkpoint is another
    model than the bundle's. Hugging Face's results are passed to ``maker``, for a golden set.
    """
    from tt_edge.compile.checkpoint.load_quantized import parameter_count

    manifest = bundle.manifest
    if images and manifest.takes_source:
        raise InvalidInputError(
            f"{bundle.path} is of an encoder-decoder, whose sources verify makes itself; omit --image"
        )
    if images and not manifest.takes_images:
        raise InvalidInputError(f"{bundle.path} is of a language model, which takes no images; omit --image")
    precision, checkpoint, truth = Precision(manifest.config.network.precision), None, None
    if isinstance(model, Checkpoint | str | os.PathLike):
        checkpoint = Checkpoint.open(model)
        model = load_reference(checkpoint, precision)
        truth = exact_reference(checkpoint, model, precision)
    if type(model).__name__ != manifest.model.architecture:
        raise ParityError(
            f"the bundle is a {manifest.model.architecture}, the checkpoint a {type(model).__name__}; "
            "give the checkpoint that the bundle was compiled from"
        )
    if (count := parameter_count(model)) != manifest.model.parameters:
        raise ParityError(
            f"the bundle's model has {manifest.model.parameters:,} parameters, the checkpoint's {count:,}; "
            "give the checkpoint that the bundle was compiled from"
        )
    if (recipe := manifest.config.quantization.recipe) is not None:
        from tt_edge.compile.quantize.calibrate import STATISTICS_FILE
        from tt_edge.compile.quantize.stage import quantize_again

        quantize_again(model, recipe, bundle.read_bytes(STATISTICS_FILE))
    network = bundle.network()
    with _kv_cache_of(network, model):
        if manifest.takes_source:
            return _of_seq2seq(bundle, model, checkpoint, network, precision, new_tokens, seed, maker)
        if manifest.takes_images:
            report = _with_pictures(
                bundle, model, checkpoint, network, precision, new_tokens, seed, images, truth, maker
            )
        else:
            report = check_parity(
                model,
                network,
                manifest.contract,
                precision,
                new_tokens=new_tokens,
                seed=seed,
                truth=truth,
                maker=maker,
            )
        report = replace(report, yardstick=getattr(model, "tt_edge_yardstick", None))
        return _with_texts(report, bundle, model, checkpoint, network, new_tokens)


def _with_texts(
    report: ParityReport,
    bundle: Bundle,
    model: PreTrainedModel,
    checkpoint: Checkpoint | None,
    network: Network,
    new_tokens: int,
    source: SourcePipeline | None = None,
) -> ParityReport:
    """``report`` with the comparison of token ids and text with transformers' tokenizer, if the checkpoint has one."""
    if checkpoint is None or not has_tokenizer(checkpoint) or not bundle.has("tokenizer.json"):
        return report
    theirs = checkpoint.tokenizer
    report = replace(report, tokenizer=compare_tokenizer(theirs, bundle))
    if bundle.manifest.takes_images or (source is not None and (source.takes_pages or not source.takes_text)):
        return report
    error = max(row.logit_error for row in report.rows)
    return replace(report, settings=compare_settings(model, theirs, bundle, network, new_tokens, error, source))


def _of_seq2seq(
    bundle: Bundle,
    model: PreTrainedModel,
    checkpoint: Checkpoint | None,
    network: Network,
    precision: Precision,
    new_tokens: int,
    seed: int,
    maker: GoldenMaker | None,
) -> ParityReport:
    from tt_edge.compile.parity.seq2seq.logits import Seq2SeqReference, check_seq2seq
    from tt_edge.runtime.engine.choose import Runtime, open_part
    from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
    from tt_edge.runtime.text.tokenizer import BundleTokenizer

    pipeline = SourcePipeline.from_bundle(bundle, open_part(bundle, ENCODER, Runtime.REFERENCE))
    has_text = bundle.has("tokenizer.json")
    special = [*BundleTokenizer.from_bundle(bundle).backend.get_added_tokens_decoder()] if has_text else []
    contract = bundle.manifest.contract
    reference = Seq2SeqReference(model, precision)
    report = check_seq2seq(
        reference,
        pipeline,
        network,
        contract,
        precision,
        new_tokens=new_tokens,
        seed=seed,
        special_ids=special,
        maker=maker,
    )
    return _with_texts(report, bundle, model, checkpoint, network, new_tokens, pipeline)


def _with_pictures(
    bundle: Bundle,
    model: PreTrainedModel,
    checkpoint: Checkpoint | None,
    network: Network,
    precision: Precision,
    new_tokens: int,
    seed: int,
    images: Sequence[ImageFile],
    truth: PreTrainedModel | None,
    maker: GoldenMaker | None,
) -> ParityReport:
    from tt_edge.runtime.engine.choose import Runtime, open_part
    from tt_edge.runtime.multimodal.pipeline import VisionPipeline
    from tt_edge.runtime.text.chat_template import ChatTemplate
    from tt_edge.runtime.text.tokenizer import BundleTokenizer

    tokenizer = BundleTokenizer.from_bundle(bundle)
    tower = open_part(bundle, VISION, Runtime.REFERENCE)
    vision = VisionPipeline.from_bundle(bundle, tower, tokenizer, scale_to_fit=False)
    pixels = [pixels_of(image) for image in images] if images else default_pictures(vision)
    if maker is not None:
        maker.add_images(pixels)
    report = check_parity(
        model,
        network,
        bundle.manifest.contract,
        precision,
        new_tokens=new_tokens,
        seed=seed,
        vision=vision,
        pictures=[vision.processor.preprocess(picture) for picture in pixels],
        special_ids=[*vision.processor.token_ids, *tokenizer.backend.get_added_tokens_decoder()],
        truth=truth,
        maker=maker,
    )
    if checkpoint is None:
        return report
    template = ChatTemplate.from_bundle(bundle, tokenizer.special_tokens)
    # Each image fits by itself; all together may not. No checkpoint's own processor drops tokens.
    processor = replace(vision.processor, max_tokens=None, keep=1.0)
    return replace(
        report, preprocessing=compare_preprocessing(checkpoint, model, processor, tokenizer, template, pixels)
    )


def _kv_cache_of(network: Network, model: PreTrainedModel) -> AbstractContextManager[None]:
    """Round the model's keys and values as the network's FP8 cache does, if it has one."""
    from tt_edge.compile.quantize.kv_cache import rounded_kv_cache

    scales = []
    for layer in network.layers:
        fields = (
            {name: value.tolist() for name, (_, value) in plugin_fields(layer).items()} if layer.kind in KINDS else {}
        )
        if fields.get("enable_fp8_kv_cache") == [1]:
            scales.append(fields["qkv_scales"])
        elif "k_scale" in fields and network.tensors[str(layer.inputs[1])].dtype is DType.FP8:  # tt-edge's plugin
            scales.append([1.0, *fields["k_scale"], *fields["v_scale"]])
    return rounded_kv_cache(model, scales) if scales else nullcontext()
