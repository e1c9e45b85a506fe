"""How the images of a checkpoint are prepared and placed, decided before anything is compiled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tt_edge.compile.export.features import check_features
from tt_edge.compile.half_products import float32_products
from tt_edge.compile.vision.decoder_call import check_decoder_call
from tt_edge.compile.vision.families import VLMFamily, family_of, remember
from tt_edge.compile.vision.processing.known_prompts import KNOWN_PROMPTS
from tt_edge.compile.vision.processing.own_processor import OwnProcessor
from tt_edge.compile.vision.processing.own_videos import VideoFinder
from tt_edge.compile.vision.processing.videos import own_template, with_videos
from tt_edge.compile.vision.tower import Tower, tower_of
from tt_edge.errors import BundleError, InvalidInputError, TTEdgeError, UnsupportedModelError, one_line
from tt_edge.runtime.multimodal.images.image_prompt import IMAGE_PROMPT_FILE, ImagePrompt
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processor_types import PROCESSOR_TYPES, class_name
from tt_edge.runtime.multimodal.images.processors import image_processor_for, image_settings, read_settings
from tt_edge.runtime.text.chat_template import VIDEO_TEMPLATE_FILE
from tt_edge.runtime.text.tokenizer import BundleTokenizer, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.files import HostFiles
    from tt_edge.contract import VisionGeometry


@dataclass(frozen=True)
class Sight:
    """A model's tower, the sizes of its inputs, and of how many tiles an image is at most."""

    family: VLMFamily
    tower: Tower
    geometry: VisionGeometry
    most_tiles: int = 1


def prepare_images(model: PreTrainedModel, source: str, files: HostFiles, *, ragged: bool = False) -> Sight:
    """Find the tower of ``model``, and write into ``files`` what the runtime needs to prepare images (``ImagePrompt``).

    For a model type that has no known prompt, the checkpoint's own processor and the model are run on a few small images, and
    what tt-edge makes of them must be equal. Raises ``UnsupportedModelError``, naming it, for what is not followed or differs;
    ``InvalidInputError`` for settings that are malformed, or make other sizes than the tower takes.

    A model without settings of an image processor is compiled without them: its bundle takes no images, and says so.
    """
    check_features(model.config, type(model).__name__)  # before what is asked of its processor
    with float32_products():
        return _prepared(model, source, files, ragged)


def _prepared(model: PreTrainedModel, source: str, files: HostFiles, ragged: bool) -> Sight:
    family = family_of(model)
    assert family is not None
    has_settings = bool(image_settings(files))
    own = OwnProcessor.open(source) if has_settings and model.config.model_type not in KNOWN_PROMPTS else None
    if own is not None and isinstance(settings := image_settings(files), dict):
        PROCESSOR_TYPES[own.kind].complete(settings)  # before what they make is asked for
    if own is not None and family.tower == "tiles":
        tile_size, high_res_size = own.tile_sizes()
        family = remember(model, replace(family, tile_size=tile_size, high_res_size=high_res_size))
    if own is not None and family.tower == "grid":
        family = remember(model, replace(family, film_merge=own.film_merge))
    tower, geometry = _tower(model, family, ragged)
    if not has_settings:
        return Sight(family, tower, geometry)
    while True:
        try:
            return _with_prompt(model, family, tower, geometry, files, own)
        except BundleError as error:
            raise InvalidInputError(f"checkpoint {source}: {error}") from error
        except UnsupportedModelError:
            # A model may find images by the tokens around them, for the positions of M-RoPE.
            if own is None or family.position_axes == 1 or not own.set_apart():
                raise


def _with_prompt(
    model: PreTrainedModel,
    family: VLMFamily,
    tower: Tower,
    geometry: VisionGeometry,
    files: HostFiles,
    own: OwnProcessor | None,
) -> Sight:
    """How images stand in prompts goes into ``files``; what the model does with them is compared."""
    prompt = known_prompt(model, files) if own is None else own.prompt(model, files, geometry)
    settings = read_settings(files, model.config.to_dict(), geometry, prompt)
    prepared = image_processor_for(settings)
    if own is None:
        prompt = with_videos(prompt, settings, prepared)
    if prompt.video is not None and (template := own_template(model)) is not None:
        files[VIDEO_TEMPLATE_FILE] = template.encode()
    if prompt.token_ids:
        files[IMAGE_PROMPT_FILE] = prompt.to_json()
    if own is not None:
        family = remember(model, replace(family, marked=own.marked()))
        family = remember(model, check_decoder_call(model, family, tower, geometry, own, files))
        files[IMAGE_PROMPT_FILE] = VideoFinder(model, family, tower, geometry, own, files).find(prompt).to_json()
    return Sight(family, tower, geometry, prepared.most_tiles)


def _tower(model: PreTrainedModel, family: VLMFamily, ragged: bool) -> tuple[Tower, VisionGeometry]:
    try:
        return tower_of(model, family, ragged=ragged)
    except TTEdgeError:
        raise
    except Exception as error:  # for tiles of another size a tower raises anything
        if model.config.model_type in KNOWN_PROMPTS:
            raise
        raise UnsupportedModelError(
            f"{type(model).__name__}'s vision tower does not make features of each tile of an image by itself ({one_line(error)})"
        ) from error


def known_prompt(model: PreTrainedModel, files: HostFiles) -> ImagePrompt:
    """That of ``KNOWN_PROMPTS``, with the tokenizer's words for the model's tokens; without token ids if it has none."""
    config, known = model.config, KNOWN_PROMPTS[model.config.model_type]
    named = [
        getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None),
        getattr(config, "video_token_id", None),
    ]
    ids = [each for each in named if isinstance(each, int)]
    words: list[str | None] = [None, None]
    if files.has("tokenizer.json"):
        backend = BundleTokenizer.from_bundle(files).backend
        words = [backend.id_to_token(each) if isinstance(each, int) else None for each in named]
    settings = image_settings(files)
    processor = known.processor
    if isinstance(settings, dict) and config.model_type != "eagle2":  # whose class is code in the checkpoint
        processor = class_name(settings, processor)
    if words[0] is None:
        return ImagePrompt(processor, Placeholders("<image>"), (), known.settings)
    placeholders = known.placeholders(words[0], words[1], read_json(files, "tokenizer_config.json"))
    return ImagePrompt(processor, placeholders, tuple(ids), known.settings, video=known.video)
