"""Preparing an image and a text for models that read both: Florence-2's tasks, and images as BLIP-2's and CLIP's processors make
them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tt_edge.contract import TILES, VisionGeometry
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.runtime.multimodal.images import ImageFile
from tt_edge.runtime.multimodal.images.load import pixels_of
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processor_types import PROCESSOR_TYPES, class_name
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings
from tt_edge.runtime.multimodal.images.tiled.square import SquareProcessor
from tt_edge.runtime.multimodal.instruction import InstructionReader
from tt_edge.runtime.text.tokenizer import Files

#: The folder of a bundle that has the tokenizer of what is read with an image.
QUESTION_TOKENIZER = "question_tokenizer"

#: transformers' classes whose images are made here.
_PROCESSORS = ("BlipImageProcessor", "CLIPImageProcessor")

#: Florence-2's tasks: what its processor asks in their place; ``{input}`` is the text after the task.
_TASKS = {
    "<OCR>": "What is the text in the image?",
    "<OCR_WITH_REGION>": "What is the text in the image, with regions?",
    "<CAPTION>": "What does the image describe?",
    "<DETAILED_CAPTION>": "Describe in detail what is shown in the image.",
    "<MORE_DETAILED_CAPTION>": "Describe with a paragraph what is shown in the image.",
    "<OD>": "Locate the objects with category name in the image.",
    "<DENSE_REGION_CAPTION>": "Locate the objects in the image, with their descriptions.",
    "<REGION_PROPOSAL>": "Locate the region proposals in the image.",
    "<CAPTION_TO_PHRASE_GROUNDING>": "Locate the phrases in the caption: {input}",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "Locate {input} in the image with mask",
    "<REGION_TO_SEGMENTATION>": "What is the polygon mask of region {input}",
    "<OPEN_VOCABULARY_DETECTION>": "Locate {input} in the image.",
    "<REGION_TO_CATEGORY>": "What is the region {input}?",
    "<REGION_TO_DESCRIPTION>": "What does the region {input} describe?",
    "<REGION_TO_OCR>": "What text is in the region {input}?",
}


@dataclass(frozen=True)
class ImageTextProcessor:
    """Makes pixels of an image, and the text that is asked of it. ``has_tasks``: as Florence-2's processor.

    ``image_token_id`` stands for an image's features in transformers' form of a source. ``instruction`` reads the text for an
    encoder whose features of the image depend on it (InstructBLIP).
    """

    images: SquareProcessor
    has_tasks: bool = False
    image_token_id: int | None = None
    instruction: InstructionReader | None = None

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], model: Mapping[str, Any], size: tuple[int, int], tokens: int
    ) -> ImageTextProcessor:
        """``settings`` are the image processor's, ``model`` is ``config.json``. Images are ``size`` ``(height, width)``.

        Raises ``UnsupportedModelError`` for settings that are not followed here, ``BundleError`` for malformed ones.
        """
        geometry = VisionGeometry(str(model.get("model_type")), TILES, tokens, tile_size=size)
        name = class_name(settings, _PROCESSORS[0])
        if name not in _PROCESSORS:
            raise UnsupportedModelError(
                f"image_processor_type is {name!r:.80}, which tt-edge does not follow for this model; there are "
                f"{', '.join(_PROCESSORS)}"
            )
        complete = PROCESSOR_TYPES[name].complete(settings)
        checkpoint = CheckpointSettings(complete, model, geometry, Placeholders("<image>"), processor=name)
        images = SquareProcessor.from_settings(checkpoint)
        token = model.get("image_token_id", model.get("image_token_index"))
        return cls(images, model.get("model_type") == "florence2", token if isinstance(token, int) else None)

    def reading(self, files: Files, most: int) -> ImageTextProcessor:
        """The same for an encoder that reads the text with its image, in at most so many tokens of ``QUESTION_TOKENIZER``.

        Raises ``BundleError`` where that is missing.
        """
        return replace(self, instruction=InstructionReader.from_files(files, QUESTION_TOKENIZER, most))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.tile_size

    def prepare(self, image: ImageFile) -> NDArray[np.float32]:
        """A file as ``[3, height, width]``. Raises ``InvalidInputError`` for what is no image, or much longer than wide."""
        return self.pixels(pixels_of(image))

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """An image ``[H, W, 3]`` as ``[3, height, width]``."""
        made: NDArray[np.float32] = self.images.process(image).pixels[0]
        return made

    def question(self, prompt: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        """The token ids that the encoder reads with the image; none where it reads pixels only. Raises as ``InstructionReader``."""
        if self.instruction is None:
            return ()
        return self.instruction.read(prompt, add_special_tokens=add_special_tokens)

    def check_ids(self, token_ids: Sequence[int]) -> None:
        """Raise ``InvalidInputError`` for an image token in the text: the image stands before it."""
        if self.image_token_id in token_ids:
            raise InvalidInputError(
                f"the text has the image token ({self.image_token_id}); remove it, the image is put before it"
            )

    def text(self, prompt: str) -> str:
        """What is asked. Raises ``InvalidInputError`` for a task with more than it takes."""
        if not self.has_tasks:
            return prompt
        for task, asked in _TASKS.items():
            if task not in prompt:
                continue
            if "{input}" in asked:
                return asked.format(input=prompt.replace(task, "").strip())
            if prompt != task:
                raise InvalidInputError(f"the task {task} takes no text beside it, and the prompt is {prompt!r:.80}")
            return asked
        return prompt
