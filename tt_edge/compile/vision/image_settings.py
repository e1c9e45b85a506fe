"""Whether the runtime will accept the image processor's settings of a checkpoint, asked before anything is compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.multimodal.images import image_processor_for, read_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.files import HostFiles
    from tt_edge.contract import VisionGeometry

_FILES = ("preprocessor_config.json", "processor_config.json")


def check_image_settings(source: str, model: PreTrainedModel, files: HostFiles, geometry: VisionGeometry) -> None:
    """Raise ``InvalidInputError`` where the settings in ``files`` are malformed, or make other sizes than the tower takes;
    ``UnsupportedModelError``, naming it, for a setting that is not followed.

    A model without such files is compiled without them: its bundle takes no images, and says so.
    """
    if not any(files.has(name) for name in _FILES):
        return
    any_token: dict[str, str | None] = {
        "image": "<image>",
        "video": "<video>",
    }  # which they are in the tokenizer changes no size
    try:
        image_processor_for(read_settings(files, model.config.to_dict(), geometry, any_token))
    except BundleError as error:
        raise InvalidInputError(f"checkpoint {source}: {error}") from error
