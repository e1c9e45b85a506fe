"""The parts that each kind of model is compiled to, and the limits of their calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tt_edge.compile.limits import with_image_tokens, with_source, within_model
from tt_edge.config import CompileConfig, TowerAttention
from tt_edge.contract import PAGE_PIXELS
from tt_edge.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.files import HostFiles
    from tt_edge.compile.part import PartCompiler
    from tt_edge.runtime.multimodal.sources import ImageSource

#: Scales of an FP8 cache, layer by layer.
KVScales = Sequence[tuple[float, float, float]]


class PartSet(ABC):
    """The parts of ``model``. One prompt must have room for ``images``, where no number of image tokens is given."""

    def __init__(self, model: PreTrainedModel, images: Sequence[ImageSource] = ()) -> None:
        self.model, self.images = model, images

    @abstractmethod
    def resolve(self, config: CompileConfig, source: str, files: HostFiles, *, fit: bool) -> CompileConfig:
        """``config`` with every limit resolved. ``source`` names the checkpoint, ``files`` are those that the runtime reads.

        ``fit`` lowers lengths that exceed the model's. Raises ``InvalidInputError`` for limits and options that the model does
        not have, ``UnsupportedModelError`` for a model that cannot be compiled with them.
        """

    @abstractmethod
    def compilers(self, config: CompileConfig, name: str, kv_scales: KVScales) -> Iterator[PartCompiler]:
        """A compiler for each part, in the order in which parts are built; ``config`` is resolved, ``name`` is the model's."""

    def check_generation(self, settings: bytes, source: str) -> None:
        """Raise ``InvalidInputError`` for malformed ``settings`` of ``generation_config.json`` that only this kind of model has."""
        del settings, source  # it has none


class LanguageParts(PartSet):
    """A language model: one decoder."""

    def resolve(self, config: CompileConfig, source: str, files: HostFiles, *, fit: bool) -> CompileConfig:
        check_takes_no_images(self.model, config)
        check_has_no_source(self.model, config)
        return config.with_limits(within_model(config.limits, self.model, fit=fit))

    def compilers(self, config: CompileConfig, name: str, kv_scales: KVScales) -> Iterator[PartCompiler]:
        from tt_edge.compile.export.decoder import DecoderCompiler

        yield DecoderCompiler(self.model, config, name, kv_scales=kv_scales)


class VisionLanguageParts(LanguageParts):
    """A vision-language model: a vision tower, and a decoder that takes its features."""

    def resolve(self, config: CompileConfig, source: str, files: HostFiles, *, fit: bool) -> CompileConfig:
        from tt_edge.compile.vision.families import check_options
        from tt_edge.compile.vision.processing.images import prepare_images
        from tt_edge.compile.vision.pruning import pruned

        check_has_no_source(self.model, config)
        limits = within_model(config.limits, self.model, fit=fit)
        ragged = config.vision.attention is TowerAttention.PLUGIN
        seen = prepare_images(self.model, source, files, ragged=ragged)
        check_options(self.model, seen.family, config.with_limits(limits))
        self._tower = pruned(seen.tower, seen.geometry, config.vision.keep_image_tokens)
        self._crosses = seen.family.tower == "images"
        if self.images and limits.max_image_tokens is None:
            from tt_edge.compile.vision.processing.room import with_room_for

            limits = within_model(with_room_for(limits, self.images, self.model, seen, files), self.model, fit=False)
        return config.with_limits(with_image_tokens(limits, seen.geometry, seen.most_tiles))

    def compilers(self, config: CompileConfig, name: str, kv_scales: KVScales) -> Iterator[PartCompiler]:
        from tt_edge.compile.vision.network import TowerCompiler

        yield TowerCompiler(self.model, config, *self._tower, network_name=f"{name}-vision")
        if self._crosses:
            from tt_edge.compile.vision.crossed.decoder import CrossedDecoderCompiler

            yield CrossedDecoderCompiler(self.model, config, name, self._tower[1])
        else:
            yield from super().compilers(config, name, kv_scales)


class Seq2SeqParts(PartSet):
    """An encoder-decoder: an encoder, and a decoder that attends to what it encoded."""

    def resolve(self, config: CompileConfig, source: str, files: HostFiles, *, fit: bool) -> CompileConfig:
        from tt_edge.compile.seq2seq.image_text import image_size_of
        from tt_edge.compile.seq2seq.model import Seq2Seq
        from tt_edge.compile.seq2seq.options import check_options
        from tt_edge.compile.seq2seq.pages import check_pages
        from tt_edge.compile.seq2seq.speech import check_extractor
        from tt_edge.runtime.seq2seq.pipeline import settings_of

        check_options(self.model, config)
        check_takes_no_images(self.model, config)
        self._parts = Seq2Seq.of(self.model, image_size_of(files))
        if (size := self._parts.speech_size) is not None:
            check_extractor(settings_of(files, "feature_extractor"), size, source)
        if self._parts.source == PAGE_PIXELS and self._parts.fixed_size is not None:
            _, height, width = self._parts.fixed_size
            check_pages(settings_of(files, "image_processor"), (height, width), source)
        if self._parts.image is not None:
            self._parts.image.add_tokenizer(source, files)
        return config.with_limits(with_source(config.limits, self._parts, fit=fit))

    def check_generation(self, settings: bytes, source: str) -> None:
        from tt_edge.compile.seq2seq.options import check_start

        check_start(self.model, settings, source)

    def compilers(self, config: CompileConfig, name: str, kv_scales: KVScales) -> Iterator[PartCompiler]:
        from tt_edge.compile.seq2seq.parts import EncoderCompiler, Seq2SeqDecoderCompiler

        yield EncoderCompiler(self._parts, config, f"{name}-encoder")
        yield Seq2SeqDecoderCompiler(self._parts, config, name)


def part_set_of(model: PreTrainedModel, images: Sequence[ImageSource] = ()) -> PartSet:
    """With ``images`` as ``PartSet`` has them. Raises ``UnsupportedModelError`` for a vision-language model of no known family."""
    from tt_edge.compile.vision.families import family_of, is_encoder_decoder

    if is_encoder_decoder(model.config):
        return Seq2SeqParts(model)
    return LanguageParts(model) if family_of(model) is None else VisionLanguageParts(model, images)


def check_takes_no_images(model: PreTrainedModel, config: CompileConfig) -> None:
    """Raise ``InvalidInputError`` for settings of a vision tower that the model does not have."""
    given = {
        "--max-image-tokens": config.limits.max_image_tokens is not None,
        "--min-image-tokens": config.limits.min_image_tokens is not None,
        "--quant-vision": config.quantization.recipe is not None and config.quantization.recipe.vision is not None,
        "--keep-image-tokens": config.vision.keep_image_tokens != 1,
        "--vision-attention": config.vision.attention is not TowerAttention.NATIVE,
    }
    if any(given.values()):
        options = " and ".join(name for name, is_given in given.items() if is_given)
        raise InvalidInputError(f"{type(model).__name__} takes no images; omit {options}")


def check_has_no_source(model: PreTrainedModel, config: CompileConfig) -> None:
    """Raise ``InvalidInputError`` for the length of a source, which only an encoder-decoder has."""
    if config.limits.max_source_len is not None:
        raise InvalidInputError(f"{type(model).__name__} is not an encoder-decoder; omit --max-source-len")
