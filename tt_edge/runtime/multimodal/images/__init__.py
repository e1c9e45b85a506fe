"""From image files to the inputs of a vision network: NumPy and Pillow, no PyTorch."""

from tt_edge.runtime.multimodal.images.image_prompt import IMAGE_PROMPT_FILE, ImagePrompt
from tt_edge.runtime.multimodal.images.load import ImageFile, ImageLimits, OpenedImage, open_image, pixels_of
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions
from tt_edge.runtime.multimodal.images.placeholders import Placeholders, TileText
from tt_edge.runtime.multimodal.images.processed import Layout, ProcessedImage
from tt_edge.runtime.multimodal.images.processors import PROCESSORS, ImageProcessor, image_processor_for, read_settings
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings

__all__ = [
    "AS_IT_IS",
    "IMAGE_PROMPT_FILE",
    "PROCESSORS",
    "CheckpointSettings",
    "ImageFile",
    "ImageLimits",
    "ImageOptions",
    "ImageProcessor",
    "ImagePrompt",
    "Layout",
    "OpenedImage",
    "Placeholders",
    "ProcessedImage",
    "TileText",
    "image_processor_for",
    "open_image",
    "pixels_of",
    "read_settings",
]
