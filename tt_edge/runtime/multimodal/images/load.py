"""Reading an image that comes from somebody else."""

from __future__ import annotations

import base64
import binascii
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import InvalidInputError, MissingDependencyError

#: A path, a ``data:image/…;base64,`` URL, a file's content, or pixels ``[H, W, 3]`` uint8.
ImageFile: TypeAlias = str | os.PathLike[str] | bytes | np.ndarray

#: Pillow's names of the formats that are read. Of animations it is the first frame.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be at most: bytes of its file, and pixels, which are checked before anything is decoded."""

    max_bytes: int = 64 << 20
    max_pixels: int = 64 << 20


def pixels_of(image: ImageFile) -> NDArray[np.uint8]:
    """``[H, W, 3]``. Raises ``InvalidInputError`` as ``load_image`` does, and for pixels of another type or shape."""
    if not isinstance(image, np.ndarray):
        return load_image(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InvalidInputError(
            f"an image is an array {image.dtype} {list(image.shape)}; give uint8 [height, width, 3]"
        )
    return image


def load_image(source: str | os.PathLike[str] | bytes, limits: ImageLimits | None = None) -> NDArray[np.uint8]:
    """The image's pixels ``[H, W, 3]``: turned as its EXIF says, colours of any kind converted, alpha left out.

    ``source`` is a path, a ``data:image/…;base64,`` URL, or a file's content. (The Hugging Face processors drop alpha in the same
    way; what lies under transparent pixels shows.) Raises ``InvalidInputError`` for what is missing, damaged, too large,
    or no image.
    """
    limits, image_module = limits or ImageLimits(), _pillow()
    name, content = _content(source, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > limits.max_pixels:
                    raise InvalidInputError(
                        f"image {name} has {width} x {height} pixels, more than {limits.max_pixels:,}; make it smaller"
                    )
                from PIL import ImageOps

                return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except InvalidInputError:
        raise
    except image_module.UnidentifiedImageError:
        formats = ", ".join(FORMATS)
        raise InvalidInputError(f"image {name} cannot be read (its format is unknown); give a {formats} file") from None
    except (image_module.DecompressionBombWarning, image_module.DecompressionBombError) as error:
        raise InvalidInputError(f"image {name} has too many pixels ({_line(error)}); make it smaller") from error
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, OverflowError, MemoryError) as error:
        formats = ", ".join(FORMATS)
        raise InvalidInputError(
            f"image {name} cannot be read ({_line(error)}); give a {formats} file that is whole"
        ) from error


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("images are read with Pillow; pip install 'tt-edge[vlm]'") from error
    return Image


def _content(source: str | os.PathLike[str] | bytes, limits: ImageLimits) -> tuple[str, bytes]:
    """A name for messages, and the file's bytes."""
    if isinstance(source, bytes):
        return _checked("given as bytes", source, limits)
    if not isinstance(source, str | os.PathLike):
        raise InvalidInputError(f"image {source!r} is no file; give a path, a data: URL, a file's content or pixels")
    text = os.fspath(source)
    if text.startswith("data:"):
        head, comma, data = text.partition(",")
        if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
            raise InvalidInputError("an image's data URL must begin with data:image/…;base64,")
        if len(data) > limits.max_bytes * 4 // 3 + 4:
            raise InvalidInputError(f"image in a data URL has more than {limits.max_bytes:,} bytes; make it smaller")
        try:
            return _checked("in a data URL", base64.b64decode(data, validate=True), limits)
        except binascii.Error as error:
            raise InvalidInputError(f"image in a data URL is not base64 ({error})") from error
    if text.startswith(("http://", "https://")):
        raise InvalidInputError(f"image {text} is a URL, and nothing is downloaded here; give a file")
    path = Path(text)
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"
            raise InvalidInputError(f"image {text} {what}; give a file")
        size = path.stat().st_size
        if size > limits.max_bytes:
            raise InvalidInputError(f"image {text} has {size:,} bytes, more than {limits.max_bytes:,}; make it smaller")
        return text, path.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"image {text!r} cannot be read ({_line(error)}); give a file") from error


def _checked(name: str, content: bytes, limits: ImageLimits) -> tuple[str, bytes]:
    if len(content) > limits.max_bytes:
        raise InvalidInputError(
            f"image {name} has {len(content):,} bytes, more than {limits.max_bytes:,}; make it smaller"
        )
    return name, content


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
