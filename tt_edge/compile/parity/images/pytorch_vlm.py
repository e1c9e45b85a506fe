"""Running the same prompts and images with Hugging Face: the baseline for vision-language models."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.processor_settings import check_processor
from tt_edge.compile.parity.images.pytorch_videos import frames_of, qwen_vl_utils, videos_given
from tt_edge.compile.parity.references.baseline import PyTorchBaseline
from tt_edge.compile.parity.references.loading import clean_generation
from tt_edge.compile.vision.adapters.own import own_architecture
from tt_edge.compile.vision.crossed.reference import crossed_inputs, is_crossed
from tt_edge.compile.vision.families import (
    PLACES,
    Instruction,
    has_grids,
    holder_of_features,
    language_part,
    placed_features,
    rope_index,
)
from tt_edge.compile.vision.features import features_of, features_of_images, handed_features, masks_tiles
from tt_edge.compile.vision.grids.found import patch_inputs_of
from tt_edge.compile.vision.padded.flattened import (
    FLATTENED_PATCHES,
    flattened_features,
    flattened_model_inputs,
    flattens,
)
from tt_edge.compile.vision.padded.phi4 import IMAGE_MASK, IMAGE_PIXELS, padded_features, padded_inputs, pads_tiles
from tt_edge.compile.vision.padded.resampled import resampled_inputs, resamples
from tt_edge.contract import HIGH_RES_PIXELS, TILE_PIXELS
from tt_edge.errors import InvalidInputError, MissingDependencyError, one_line
from tt_edge.runtime.benchmark.local import observe
from tt_edge.runtime.benchmark.records import Measured, RequestTimes
from tt_edge.runtime.benchmark.workload import Plan
from tt_edge.runtime.multimodal.images import ProcessedImage, pixels_of
from tt_edge.runtime.multimodal.images.options import SIZE_SETTINGS, refuse_pixel_settings
from tt_edge.runtime.multimodal.sources import ImageSource, SizedImage, Video, VideoFile
from tt_edge.runtime.text.chat import as_parts, without_media
from tt_edge.runtime.text.chat_template import Message

if TYPE_CHECKING:
    from tt_edge.config import Precision
    from tt_edge.runtime.llm import LLM

Inputs = dict[str, Tensor]
#: What says which tokens are an image's.
_KINDS = "mm_token_type_ids"


class PyTorchVLM(PyTorchBaseline):
    """A vision-language checkpoint in PyTorch with its own processor, on the GPU where there is one."""

    def __init__(self, source: Checkpoint | str | os.PathLike[str], precision: Precision) -> None:
        super().__init__(source, precision)
        self.processor = processor_of(self.checkpoint)

    def inputs(
        self, llm: LLM, prompt: str, images: Sequence[ImageSource], *, add_special_tokens: bool = True
    ) -> Inputs:
        """The inputs of ``generate()``, by the checkpoint's processor; where there is none here, by ``llm``'s."""
        if self.processor is not None:
            return processor_inputs(self.processor, prompt, images, add_special_tokens=add_special_tokens)
        assert llm.vision is not None
        ids, processed = llm.vision.processor.tokenize(
            llm.tokenizer, prompt, images, add_special_tokens=add_special_tokens
        )
        return model_inputs(self.model, [ids], processed)

    def chat_prompt(self, llm: LLM, messages: Sequence[Message]) -> str:
        """The text of a chat by the checkpoint's own template; for a checkpoint without one here, by ``llm``'s."""
        if self.processor is None or not self.processor.chat_template:
            return llm.apply_chat_template(messages)
        return chat_text(self.processor, messages)

    def continue_greedily(
        self, inputs: Inputs, max_new_tokens: int, streamer: Any = None, **settings: Any
    ) -> list[int]:
        """The new tokens of greedy ``generate()``, with the checkpoint's own end-of-sequence ids (unless ``settings`` has others)
        and none of its other generation settings."""
        ends = self.model.generation_config.eos_token_id
        moved = {
            name: tensor.to(self.device, self.model.dtype if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in inputs.items()
        }
        with torch.no_grad(), clean_generation(self.model):
            out = self.model.generate(
                **moved, max_new_tokens=max_new_tokens, streamer=streamer, **{"eos_token_id": ends, **settings}
            )
        prompt: list[int] = inputs["input_ids"][0].tolist()
        ids: list[int] = out[0].tolist()
        return ids[len(prompt) :] if ids[: len(prompt)] == prompt else ids

    def measure_images(self, inputs: Inputs, plan: Plan) -> Measured:
        """Like ``tt_edge.runtime.benchmark.local.measure_images``: first the tower only, then ``generate()`` with everything."""
        return observe(self.word, lambda: [self._images_timed(inputs, plan.osl)], plan.warmup, plan.runs)

    def _images_timed(self, inputs: Inputs, new_tokens: int) -> RequestTimes:
        vision = {name: inputs[name] for name in vision_inputs_of(self.model) if name in inputs}
        start = self._now()
        if vision:
            moved = {name: tensor.to(self.device) for name, tensor in cast(vision, self.model.dtype).items()}
            with torch.no_grad():
                tower_outputs(self.model, moved)
        seconds = self._now() - start
        clock = _Clock(self)
        start = self._now()
        self.continue_greedily(inputs, new_tokens, clock, min_new_tokens=new_tokens)
        computed_from = min(start + seconds, clock.times[0])  # generate() runs the tower once more, first
        length = int(inputs["input_ids"].shape[-1])
        return RequestTimes(start, tuple(clock.times), length, len(clock.times), computed_from, 0, seconds)


class _Clock:
    """A streamer for ``generate()`` that records when each new token arrives."""

    def __init__(self, baseline: PyTorchVLM) -> None:
        self._baseline, self._prompt_seen = baseline, False
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        if not self._prompt_seen and value.ndim > 1:
            self._prompt_seen = True
            return
        self.times.append(self._baseline._now())

    def end(self) -> None:
        """Nothing is buffered."""


def processor_of(source: Checkpoint | str | os.PathLike[str]) -> Any:
    """The checkpoint's processor; ``None`` for Eagle 2 and VILA, whose processors are code in the checkpoint.

    Raises ``InvalidInputError`` for a checkpoint without one, and ``MissingDependencyError`` without torchvision.
    """
    from transformers import AutoProcessor

    checkpoint = Checkpoint.open(source)
    if own_architecture(checkpoint.settings) is not None:
        return None
    check_processor(checkpoint)
    try:
        processor = AutoProcessor.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except ImportError as error:
        raise MissingDependencyError(
            f"transformers' image processors need torchvision ({error}); pip install 'tt-edge[vlm-host]'"
        ) from error
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
    ) as error:  # of settings that nothing has checked
        raise InvalidInputError(
            f"the processor of {checkpoint.source} does not load ({one_line(error)}); download it again"
        ) from error
    if not hasattr(processor, "image_processor"):  # transformers gives a language model's tokenizer
        raise InvalidInputError(
            f"{checkpoint.source} has no image processor, as vision-language models have; give one of these"
        )
    return processor


def chat_text(processor: Any, messages: Sequence[Message]) -> str:
    """``messages`` by the processor's own chat template, up to where the assistant speaks.

    Contents are given as parts, which templates of processors take, where the template does not show strings.
    Raises ``InvalidInputError`` if it shows neither.
    """
    plain = [without_media(message) for message in messages]
    texts = [text for message in plain for text in _texts(message.get("content"))]
    cause: Exception | None = None
    for form in (plain, [as_parts(message) for message in plain]):
        try:
            found = str(processor.apply_chat_template(form, add_generation_prompt=True, tokenize=False))
        except Exception as error:  # a template can make Python raise anything for a form that it does not take
            cause = error
            continue
        if all(text.strip() in found for text in texts):
            return found
    why = "" if cause is None else f" ({one_line(cause)})"
    raise InvalidInputError(
        f"the checkpoint's own chat template does not show every message{why}; ask with a plain prompt"
    ) from cause


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part, Mapping) and isinstance(part.get("text"), str)]


def processor_inputs(
    processor: Any, prompt: str, images: Sequence[ImageSource], *, add_special_tokens: bool = True
) -> Inputs:
    """The output of the checkpoint's own processor for a prompt with placeholders, and its images in order.

    Raises ``InvalidInputError`` for a prompt that the processor does not take with these images.
    """
    pictures = [_picture(image, processor) for image in images if not isinstance(image, Video | VideoFile)]
    films = [image for image in images if isinstance(image, Video | VideoFile)]
    more: dict[str, Any] = {"images": pictures} if pictures else {}
    if films:
        read = [
            (frames.transpose(0, 3, 1, 2), metadata) for frames, metadata in (frames_of(f, processor) for f in films)
        ]
        more |= videos_given(processor, read, [film.fps for film in films])
    more |= kinds_of_tokens(processor)
    try:
        out = processor(text=[prompt], return_tensors="pt", add_special_tokens=add_special_tokens, **more)
    except ValueError as error:
        raise InvalidInputError(
            f"the checkpoint's processor does not take the prompt {prompt!r:.80} with {len(images)} images "
            f"({one_line(error).rstrip('.')}); without a chat template, a prompt needs the image token in the place of each image"
        ) from error
    taken = {*_USED, *processor.model_input_names} - {"labels"}  # PaliGemma's, of training
    return {
        name: value if isinstance(value, Tensor) else torch.tensor(value)
        for name, value in out.items()
        if name in taken or name.endswith(PLACES)
    }


def kinds_of_tokens(processor: Any) -> dict[str, bool]:
    """What asks ``processor`` for the kinds of tokens, which models with M-RoPE need, and some processors make only if asked."""
    makes = _KINDS in getattr(processor, "model_input_names", ())
    return {f"return_{_KINDS}": True} if makes else {}


#: The pixels that towers take, and which of the tiles are padding.
OF_TOWER = (TILE_PIXELS, HIGH_RES_PIXELS, "pixel_attention_mask", IMAGE_PIXELS, IMAGE_MASK, FLATTENED_PATCHES)
#: The model inputs that say how large images are.
SIZES = (
    "image_grid_thw",
    "image_merge_sizes",
    "image_sizes",
    "image_position_ids",
    "aspect_ratio_ids",
    "aspect_ratio_mask",
)


def tower_outputs(model: Any, inputs: Mapping[str, Tensor]) -> Any:
    """What ``get_image_features`` returns; of a model without it, what it hands its decoder, as ``pooler_output``."""
    if is_crossed(model):
        return model.model.vision_model(**inputs)
    if pads_tiles(model):
        return SimpleNamespace(pooler_output=padded_features(model, dict(inputs)))
    if hasattr(holder_of_features(model), "get_image_features"):
        return holder_of_features(model).get_image_features(**inputs)
    if flattens(model):
        return SimpleNamespace(pooler_output=flattened_features(model, dict(inputs)))
    return SimpleNamespace(pooler_output=handed_features(model, inputs["pixel_values"]))


def vision_inputs_of(model: Any) -> tuple[str, ...]:
    """What ``get_image_features`` may take of a processor's outputs."""
    instruction = Instruction.of(model)
    return (*OF_TOWER, *SIZES, *(() if instruction is None else (instruction.name, instruction.mask)))


#: The processor outputs that models take.
_USED = {
    "input_ids",
    "attention_mask",
    *OF_TOWER,
    "pixel_values_images",
    "image_grid_thw",
    "image_merge_sizes",
    "pixel_values_videos",
    "video_grid_thw",
    "second_per_grid_ts",
    "video_second_per_grid",
    "video_merge_sizes",
    "video_compression_mask",
    _KINDS,
    "token_type_ids",
    "image_sizes",
    "image_position_ids",
    "batch_num_images",
}


def _picture(image: ImageSource, processor: Any) -> Any:
    """The Pillow image; resized by qwen-vl-utils where it asks for a number of pixels or a size.

    Raises ``InvalidInputError`` for ``detail``, which it does not have, and for an image that is preprocessed already.
    """
    from PIL import Image

    if isinstance(image, ProcessedImage | Video | VideoFile):
        raise InvalidInputError("an image is preprocessed already, which is not compared with PyTorch; give a file")
    if not isinstance(image, SizedImage):
        return Image.fromarray(pixels_of(image))
    if image.options.low_detail:
        raise InvalidInputError("an image has detail, which is not compared with PyTorch; omit it from the image")
    picture = Image.fromarray(pixels_of(image.image))
    asked = {name: value for name in SIZE_SETTINGS if (value := getattr(image.options, name)) is not None}
    if not asked:
        return picture
    patch = getattr(processor.image_processor, "patch_size", None)
    if not isinstance(patch, int):
        refuse_pixel_settings(image.options)
    return qwen_vl_utils().fetch_image({"image": picture, **asked}, image_patch_size=patch)


def model_inputs(model: Any, rows: Sequence[Sequence[int]], images: Sequence[ProcessedImage]) -> Inputs:
    """Model inputs for ``rows`` of token ids of equal length and their preprocessed images, in order; no videos."""
    inputs: Inputs = {"input_ids": torch.tensor([list(row) for row in rows])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    grids = getattr(model.config, "vision_config", None) is not None and has_grids(model)
    if grids and (rope_index(model) is not None or _KINDS in inspect.signature(model.forward).parameters):
        inputs[_KINDS] = (inputs["input_ids"] == model.config.image_token_id).int()
    if images and is_crossed(model):
        return inputs | crossed_inputs(model, rows, images)
    if images and pads_tiles(model):
        return inputs | padded_inputs(model, images)
    if images and resamples(model):
        made = resampled_inputs(model, images)
        return inputs | {name: _by_row(model, rows, images, tiles) for name, tiles in made.items()}
    if grids and images:
        return inputs | patch_inputs_of(model).of_images(images)
    if images:
        inputs |= flattened_model_inputs(images) if flattens(model) else {TILE_PIXELS: _pixels(model, rows, images)}
        if images[0].high_res is not None:
            inputs[HIGH_RES_PIXELS] = torch.cat([torch.from_numpy(each.high_res) for each in images])
        if masks_tiles(model):
            inputs["pixel_attention_mask"] = torch.ones(inputs["pixel_values"].shape[:2], dtype=torch.bool)
        if images[0].size is not None:
            inputs["image_sizes"] = torch.tensor([image.size for image in images])
        if (instruction := Instruction.of(model)) is not None:
            read = [torch.tensor(image.instruction) for image in images]
            inputs[instruction.name] = pad_sequence(read, batch_first=True)
            inputs[instruction.mask] = pad_sequence([torch.ones_like(ids) for ids in read], batch_first=True)
        if images[0].place is not None and (placing := placed_features(language_part(model))):
            inputs[placing + PLACES] = _places(model, inputs["input_ids"], images)
    if model.config.model_type == "gemma3":
        inputs["token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
    if images and model.config.model_type == "paligemma":
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return inputs


def _places(model: Any, input_ids: Tensor, images: Sequence[ProcessedImage]) -> Tensor:
    """1 for each token of an image in front of a text; Kosmos-2.5 takes the tokens around it for the image's, too (-1)."""
    mask, ends = torch.zeros_like(input_ids), int(flattens(model))
    for row, image in zip(mask, images, strict=False):
        first = image.place or 0
        row[first - ends : first + image.tokens + ends] = -1
        row[first : first + image.tokens] = 1
    return mask


def _pixels(model: Any, rows: Sequence[Sequence[int]], images: Sequence[ProcessedImage]) -> Tensor:
    """Pixels as the model takes them: of all images one after another, or of each image, or row, padded with zeros."""
    tiles = [torch.from_numpy(image.pixels) for image in images]
    if images[0].size is not None:
        return pad_sequence(tiles, batch_first=True)
    if model.config.model_type in ("idefics3", "smolvlm") or masks_tiles(model):
        return _by_row(model, rows, images, tiles)
    every = torch.cat(tiles)
    return every[:, None] if features_of(model) is features_of_images else every


def _by_row(
    model: Any, rows: Sequence[Sequence[int]], images: Sequence[ProcessedImage], tiles: Sequence[Tensor]
) -> Tensor:
    """Of what each of ``images`` has for its ``tiles``, that of the images of each row, padded with zeros ``[rows, tiles, …]``."""
    left, grouped = list(zip(tiles, images, strict=True)), []
    for row in rows if len(rows) > 1 else [()]:
        count, own = sum(id == model.config.image_token_id for id in row), []
        while left and (len(rows) == 1 or count > 0):
            found, image = left.pop(0)
            own.append(found)
            count -= image.tokens
        grouped.append(torch.cat(own) if own else tiles[0][:0])
    return pad_sequence(grouped, batch_first=True)


def cast(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> Inputs:
    """``inputs`` with floating-point tensors in ``dtype``."""
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
