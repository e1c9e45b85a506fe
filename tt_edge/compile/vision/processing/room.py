"""The limits that some images need, before anything is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tt_edge.compile.vision.processing.images import Sight
from tt_edge.config import Limits
from tt_edge.contract import WHOLE_IMAGES
from tt_edge.runtime.multimodal.images.image_prompt import ImagePrompt
from tt_edge.runtime.multimodal.images.processors import image_processor_for, read_settings
from tt_edge.runtime.multimodal.processor import MultimodalProcessor
from tt_edge.runtime.multimodal.sources import ImageSource
from tt_edge.runtime.multimodal.videos.processors import video_processor_for
from tt_edge.runtime.multimodal.vision_inputs import unpadded_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.files import HostFiles


def with_room_for(
    limits: Limits, images: Sequence[ImageSource], model: PreTrainedModel, seen: Sight, files: HostFiles
) -> Limits:
    """``limits`` for prompts with all of ``images``, in their own sizes.

    Image tokens are those of the prompt, or more, where tiles and windows are partly empty. A prompt is made as long. Raises as
    ``MultimodalProcessor.plan`` does for images that cannot be read.
    """
    geometry = replace(seen.geometry, max_instruction=0)
    if geometry.unit == WHOLE_IMAGES:
        return replace(limits, max_image_tokens=geometry.image_rows * len(images))
    prompt = ImagePrompt.read(files)
    settings = read_settings(files, model.config.to_dict(), geometry, prompt)
    own = image_processor_for(settings)
    processor = MultimodalProcessor(own, prompt.token_ids, video_processor=video_processor_for(settings, own))
    processed = [processor.preprocess(image) for image in processor.plan(images)]
    units = len(next(iter(unpadded_inputs(geometry, processed)[0].values())))
    tokens = max(geometry.least_image_tokens, sum(image.tokens for image in processed))
    while geometry.most_units(tokens) < units and not geometry.frame_rows:  # with frames' rows, there are several calls
        tokens += 1
    return replace(limits, max_image_tokens=tokens, max_seq_len=max(limits.max_seq_len, tokens))
