"""From image files to the inputs of a vision network: NumPy and Pillow, no PyTorch."""

from tt_edge.runtime.multimodal.images.families import ImageProcessor, image_processor_for, read_settings
from tt_edge.runtime.multimodal.images.load import ImageFile, ImageLimits, load_image, pixels_of
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings

__all__ = [
    "CheckpointSettings",
    "ImageFile",
    "ImageLimits",
    "ImageProcessor",
    "Placeholders",
    "ProcessedImage",
    "image_processor_for",
    "load_image",
    "pixels_of",
    "read_settings",
]
