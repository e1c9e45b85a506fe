"""Reading an image that comes from somebody else."""

from __future__ import annotations

import base64
import binascii
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias, Union
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import InvalidInputError, MissingDependencyError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

#: A path, a ``file:`` or ``data:image/…;base64,`` URL, a file's content, pixels ``[H, W, 3]`` uint8, or a Pillow image.
ImageFile: TypeAlias = Union[str, "os.PathLike[str]", bytes, np.ndarray, "PillowImage"]

#: Pillow's names of the formats that are read. Of animations it is the first frame.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")

#: EXIF's tag of the orientation, and those of its values that swap width and height.
_ORIENTATION, _QUARTER_TURNS = 0x0112, (5, 6, 7, 8)

#: Characters of base64 that are decoded in one call: a call holds the interpreter's lock.
_BASE64_STEP = 1 << 20


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be at most: bytes of its file, and pixels, which are checked before anything is decoded."""

    max_bytes: int = 64 << 20
    max_pixels: int = 64 << 20


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image of which only the size is known yet: ``(height, width)``, turned as its EXIF says.

    ``name`` is for messages. ``pixels`` decodes it.
    """

    name: str
    size: tuple[int, int]
    _content: bytes | NDArray[np.uint8] | Any

    def pixels(self) -> NDArray[np.uint8]:
        """``[H, W, 3]``: turned as its EXIF says, colours of any kind converted, alpha left out.

        16 bits a channel are scaled to 8. (The Hugging Face processors drop alpha in the same way; what lies under transparent
        pixels shows.) Raises ``InvalidInputError`` for an image that is damaged.
        """
        if isinstance(self._content, np.ndarray):
            return self._content
        if not isinstance(self._content, bytes):
            return _decoded(self._content, self.name)
        with _reading(self.name), _pillow().open(io.BytesIO(self._content), formats=FORMATS) as image:
            return _decoded(image, self.name)


def open_image(source: ImageFile, limits: ImageLimits | None = None) -> OpenedImage:
    """Read the header of ``source``. Raises ``InvalidInputError`` for what is missing, too large, or no image."""
    limits = limits or ImageLimits()
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise InvalidInputError(
                f"an image is an array {source.dtype} {list(source.shape)}; give uint8 [height, width, 3]"
            )
        return OpenedImage("given as pixels", (source.shape[0], source.shape[1]), source)
    if _is_pillow(source):
        return OpenedImage("given as a Pillow image", _checked_size(source, "given as a Pillow image", limits), source)
    name, content = _content(source, limits)
    with _reading(name), _pillow().open(io.BytesIO(content), formats=FORMATS) as image:
        return OpenedImage(name, _checked_size(image, name, limits), content)


def pixels_of(image: ImageFile, limits: ImageLimits | None = None) -> NDArray[np.uint8]:
    """``[H, W, 3]``. Raises ``InvalidInputError`` as ``open_image`` and ``OpenedImage.pixels`` do."""
    return open_image(image, limits).pixels()


def _checked_size(image: Any, name: str, limits: ImageLimits) -> tuple[int, int]:
    width, height = image.size
    if not width * height:
        raise InvalidInputError(f"image {name} has {width} x {height} pixels; give one that has some")
    if width * height > limits.max_pixels:
        raise InvalidInputError(
            f"image {name} has {width} x {height} pixels, more than {limits.max_pixels:,}; make it smaller"
        )
    turned = image.getexif().get(_ORIENTATION) in _QUARTER_TURNS
    return (width, height) if turned else (height, width)


def _decoded(image: Any, name: str) -> NDArray[np.uint8]:
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):  # 16 bits of grey: Pillow would clip them at 255
        values = np.asarray(turned)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise InvalidInputError(f"image {name} has values beyond 16 bits; convert it to RGB")
        return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if turned.mode == "F":
        raise InvalidInputError(f"image {name} has pixels of floating point; convert it to RGB")
    return np.array(turned.convert("RGB"))


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """What Pillow raises, as ``InvalidInputError``."""
    image_module, formats = _pillow(), ", ".join(FORMATS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            yield
    except InvalidInputError:
        raise
    except image_module.UnidentifiedImageError:
        raise InvalidInputError(f"image {name} cannot be read (its format is unknown); give a {formats} file") from None
    except (image_module.DecompressionBombWarning, image_module.DecompressionBombError) as error:
        raise InvalidInputError(f"image {name} has too many pixels ({one_line(error)}); make it smaller") from error
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, OverflowError, MemoryError) as error:
        raise InvalidInputError(
            f"image {name} cannot be read ({one_line(error)}); give a {formats} file that is whole"
        ) from error


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("images are read with Pillow; pip install 'tt-edge[vlm]'") from error
    return Image


def _is_pillow(source: object) -> bool:
    """Whether it is a Pillow image; without importing Pillow, which whoever has such an image has done."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(source, module.Image)


def _content(source: Any, limits: ImageLimits) -> tuple[str, bytes]:
    """A name for messages, and the file's bytes."""
    if isinstance(source, bytes):
        return _checked("given as bytes", source, limits)
    if not isinstance(source, str | os.PathLike):
        raise InvalidInputError(
            f"image {source!r} is no file; give a path, a data: URL, a file's content, pixels or a Pillow image"
        )
    text = os.fspath(source)
    if text.startswith("data:"):
        return _checked("in a data URL", _of_data_url(text, limits), limits)
    if text.startswith(("http://", "https://")):
        raise InvalidInputError(f"image {text} is a URL, and nothing is downloaded here; give a file")
    path = Path(unquote(urlsplit(text).path) if text.startswith("file://") else text)
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"
            raise InvalidInputError(f"image {text} {what}; give a file")
        size = path.stat().st_size
        if size > limits.max_bytes:
            raise InvalidInputError(f"image {text} has {size:,} bytes, more than {limits.max_bytes:,}; make it smaller")
        return text, path.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"image {text!r} cannot be read ({one_line(error)}); give a file") from error


def _of_data_url(url: str, limits: ImageLimits) -> bytes:
    comma = url.find(",", 0, 200)
    head, first = url[:comma], comma + 1
    if comma < 0 or not head.startswith(("data:image/", "data:image;")) or not head.endswith(";base64"):
        raise InvalidInputError("an image's data URL must begin with data:image/…;base64,")
    if len(url) - first > limits.max_bytes * 4 // 3 + 4:
        raise InvalidInputError(f"image in a data URL has more than {limits.max_bytes:,} bytes; make it smaller")
    try:
        steps = range(first, len(url), _BASE64_STEP)
        return b"".join(base64.b64decode(url[at : at + _BASE64_STEP], validate=True) for at in steps)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError(f"image in a data URL is not base64 ({error})") from error


def _checked(name: str, content: bytes, limits: ImageLimits) -> tuple[str, bytes]:
    if len(content) > limits.max_bytes:
        raise InvalidInputError(
            f"image {name} has {len(content):,} bytes, more than {limits.max_bytes:,}; make it smaller"
        )
    return name, content
