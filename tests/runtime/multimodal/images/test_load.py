"""Images of all kinds are read, and whatever is none is refused in a line."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images import ImageLimits, open_image, pixels_of

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)


def encoded(mode="RGB", format="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(IMAGE).convert(mode).save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_colours_of_every_kind(mode):
    if mode == "I;16":
        file = io.BytesIO()
        Image.fromarray(IMAGE[..., 0].astype(np.uint16) * 256).save(file, "PNG")
        content = file.getvalue()
    else:
        content = encoded(mode)
    image = pixels_of(content)
    assert (image.shape, image.dtype) == ((6, 9, 3), np.uint8)
    if mode in ("RGB", "RGBA"):
        assert np.array_equal(image, IMAGE)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "BMP", "GIF"])
def test_formats(format):
    assert pixels_of(encoded(format=format)).shape == (6, 9, 3)


def test_exif_turns_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    (tmp_path / "a.png").write_bytes(encoded(exif=exif))
    assert np.array_equal(pixels_of(tmp_path / "a.png"), np.rot90(IMAGE, -1))


def test_data_url():
    url = "data:image/png;base64," + base64.b64encode(encoded()).decode()
    assert np.array_equal(pixels_of(url), IMAGE)


def bomb():
    """A PNG that says it is 100,000 x 100,000."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    data = b"IDAT" + zlib.compress(bytes(1000))
    parts = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"plain text", "cannot be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read"),
        (encoded()[:60], "cannot be read"),
        (encoded(format="JPEG")[:200], "cannot be read"),
        (bomb(), "100000 x 100000 pixels|too many pixels"),
        (encoded(format="TIFF"), "cannot be read"),
    ],
    ids=["empty", "text", "svg", "cut png", "cut jpeg", "bomb", "tiff"],
)
def test_refused(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    for source in (content, tmp_path / "a.png"):
        with pytest.raises(InvalidInputError, match=message) as caught:
            pixels_of(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.png", "does not exist"),
        (".", "is a folder"),
        ("https://example.com/a.png", "nothing is downloaded here"),
        ("data:text/plain;base64,AAAA", "must begin with data:image"),
        ("data:image/png;base64,!!!", "is not base64"),
        ("a\0b.png", "cannot be read|does not exist"),
        (None, "image None is no file; give a path, a data: URL, a file's content, pixels or a Pillow"),
        ({"url": "a.png"}, "image {'url': 'a.png'} is no file"),
    ],
)
def test_no_file(source, message):
    with pytest.raises(InvalidInputError, match=message):
        pixels_of(source)


def test_pixels(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    assert pixels_of(IMAGE) is IMAGE
    assert np.array_equal(pixels_of(tmp_path / "a.png"), IMAGE)


@pytest.mark.parametrize("pixels", [IMAGE / 255, IMAGE[..., 0], IMAGE[..., :2], IMAGE[:0]])
def test_pixels_of_another_kind(pixels):
    with pytest.raises(InvalidInputError, match=r"an image is an array .*; give uint8 \[height, width, 3\]"):
        pixels_of(pixels)


def test_limits(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    with pytest.raises(InvalidInputError, match="9 x 6 pixels, more than 50; make it smaller"):
        pixels_of(tmp_path / "a.png", ImageLimits(max_pixels=50))
    with pytest.raises(InvalidInputError, match="bytes, more than 50; make it smaller"):
        pixels_of(tmp_path / "a.png", ImageLimits(max_bytes=50))


RAMP = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)


@pytest.mark.parametrize("kind", [np.uint16, ">u2", np.int32])
def test_sixteen_bits_of_grey_are_scaled(kind):
    """Pillow clips them at 255: a ramp becomes white."""
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "PNG")
    for source in (Image.fromarray(RAMP.astype(kind)), file.getvalue()):
        got = pixels_of(source)
        assert np.array_equal(got[..., 0], RAMP >> 8)
        assert got.mean() == pytest.approx(127.5, abs=0.6)
        assert np.array_equal(got[..., 0], got[..., 2])


def test_pillow_images():
    image = Image.fromarray(IMAGE)
    assert np.array_equal(pixels_of(image), IMAGE)
    assert np.array_equal(pixels_of(image.convert("RGBA")), IMAGE)
    image.getexif()[0x0112] = 6
    assert np.array_equal(pixels_of(image), np.rot90(IMAGE, -1))
    assert open_image(image).size == (9, 6), "turned"
    for bad, message in (
        (Image.fromarray(np.full((2, 2), -1, np.int32)), "values beyond 16 bits; convert it to RGB"),
        (Image.fromarray(np.ones((2, 2), np.float32)), "pixels of floating point; convert it to RGB"),
        (Image.new("RGB", (0, 5)), "has 0 x 5 pixels"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            pixels_of(bad)


def test_forms_of_qwens_examples(tmp_path):
    (tmp_path / "a b.png").write_bytes(encoded())
    assert np.array_equal(pixels_of((tmp_path / "a b.png").as_uri()), IMAGE)
    assert np.array_equal(pixels_of("data:image;base64," + base64.b64encode(encoded()).decode()), IMAGE)


def test_base64_in_steps(monkeypatch):
    monkeypatch.setattr("tt_edge.runtime.multimodal.images.load._BASE64_STEP", 8)
    text = base64.b64encode(encoded()).decode()
    assert np.array_equal(pixels_of("data:image/png;base64," + text), IMAGE)
    for broken in (text[:9] + "!" + text[9:], text[:-1], "AA==" + text):
        with pytest.raises(InvalidInputError):
            pixels_of("data:image/png;base64," + broken)
