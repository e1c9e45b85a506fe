"""From image files to the inputs of a vision network: NumPy and Pillow, no PyTorch.

What prepares images is in ``processors``, which only models that take images load.
"""

from tt_edge.runtime.multimodal.images.load import ImageFile, ImageLimits, OpenedImage, open_image, pixels_of
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions
from tt_edge.runtime.multimodal.images.processed import Layout, ProcessedImage

__all__ = [
    "AS_IT_IS",
    "ImageFile",
    "ImageLimits",
    "ImageOptions",
    "Layout",
    "OpenedImage",
    "ProcessedImage",
    "open_image",
    "pixels_of",
]
