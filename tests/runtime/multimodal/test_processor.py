"""The multimodal processor: images share what the vision network takes, and what cannot fit is refused before it is decoded."""

from __future__ import annotations

import dataclasses
import io
import time

import numpy as np
import pytest
from PIL import Image

from tt_edge.errors import CapacityError, InvalidInputError, UnsupportedModelError
from tt_edge.runtime.multimodal.images import ImageOptions
from tt_edge.runtime.multimodal.images.patched.grids import PixelBounds
from tt_edge.runtime.multimodal.images.patched.qwen_vl import QwenVLProcessor
from tt_edge.runtime.multimodal.processor import MultimodalProcessor
from tt_edge.runtime.multimodal.sources import SizedImage, Video
from tt_edge.runtime.multimodal.videos.grids import GridVideos
from tt_edge.runtime.multimodal.videos.sampling import FrameSampling

#: Of videos, 128 to 768 tokens a frame.
VIDEOS = GridVideos(QwenVLProcessor(bounds=PixelBounds(128 * 28**2, 768 * 28**2)), FrameSampling())
PROCESSOR = MultimodalProcessor(
    QwenVLProcessor(), (7, 8), axes=3, merge_size=2, max_tokens=1024, video_processor=VIDEOS
)


def pixels(width, height):
    return np.zeros((height, width, 3), np.uint8)


def tokens(*sources, processor=PROCESSOR):
    return [processor.preprocess(planned).tokens for planned in processor.plan(sources)]


def test_a_photo_of_full_hd_and_one_of_a_phone_fit():
    for size in ((1920, 1080), (4032, 3024)):
        [image] = [PROCESSOR.preprocess(planned) for planned in PROCESSOR.plan([pixels(*size)])]
        assert 950 < image.tokens <= 1024
        rows, columns = image.grid[1:]
        assert columns / rows == pytest.approx(size[0] / size[1], rel=0.05)
        assert f"of {size[0]} x {size[1]} pixels is scaled to {image.tokens} image tokens to fit" in image.note
        assert PROCESSOR.place([7] * image.tokens, [image]).notes == (image.note,)


def test_small_images_keep_their_size_beside_large_ones():
    small, large = pixels(280, 280), pixels(1920, 1080)
    assert tokens(small) == [100]
    got = tokens(small, large, small, large)
    assert got[0] == got[2] == 100
    assert 380 < got[1] == got[3] <= 412
    assert [planned.note == "" for planned in PROCESSOR.plan([small, large])] == [True, False]


def test_a_video_beside_an_image():
    video = Video([pixels(112, 112)] * 4)
    [alone] = tokens(video)
    got = tokens(video, pixels(1920, 1080))
    assert got[0] == alone
    assert sum(got) <= 1024


def test_a_model_that_takes_no_videos():
    video = Video([pixels(112, 112)] * 4)
    for why, said in (("", ""), ("frames are turned", r" \(frames are turned\)")):
        with pytest.raises(UnsupportedModelError, match=f"this model takes no videos{said}; give its frames as images"):
            tokens(video, processor=dataclasses.replace(PROCESSOR, video_processor=None, no_videos=why))


def test_frames_at_another_rate_are_not_found_in_the_kv_cache():
    """With Qwen2.5-VL their positions differ, though their pixels do not."""
    processor = dataclasses.replace(PROCESSOR, video_processor=dataclasses.replace(VIDEOS, tokens_per_second=2.0))
    slow, fast, same = (processor.preprocess(Video([pixels(112, 112)] * 4, fps)) for fps in (1.0, 4.0, 1.0))
    assert slow.digest == fast.digest, "one key in the image-feature cache"
    keys = [processor.place([8] * video.tokens, [video]).keys for video in (slow, fast, same)]
    assert keys[0] == keys[2]
    assert not set(keys[0]) & set(keys[1])


def test_without_scaling_they_are_refused_by_their_size():
    exact = dataclasses.replace(PROCESSOR, scale_to_fit=False)
    with pytest.raises(
        CapacityError, match="images and videos have 1222 image tokens, more than max_image_tokens 1024; give fewer"
    ):
        tokens(pixels(1920, 1080), processor=exact)
    with pytest.raises(CapacityError, match="image tokens, more than max_image_tokens 3; give fewer"):
        tokens(*[pixels(56, 56)] * 4, processor=dataclasses.replace(PROCESSOR, max_tokens=3))


def test_a_size_that_is_asked_for():
    asked = SizedImage(pixels(1920, 1080), ImageOptions(max_pixels=100 * 28 * 28))
    assert tokens(asked)[0] <= 100
    assert PROCESSOR.plan([asked])[0].note == ""


def gif(width, height):
    """A GIF of 30 bytes whose canvas is of that size."""
    file = io.BytesIO()
    Image.new("P", (1, 1)).save(file, "GIF")
    content = bytearray(file.getvalue())
    content[6:10] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return bytes(content)


def test_many_large_canvases_are_refused_before_any_is_decoded(monkeypatch):
    monkeypatch.setattr("tt_edge.runtime.multimodal.images.load.OpenedImage.pixels", lambda _: pytest.fail("decoded"))
    start = time.perf_counter()
    with pytest.raises(
        InvalidInputError, match="images have 2,048,000,000 pixels, more than 268,435,456; give fewer or"
    ):
        tokens(*[gif(8000, 8000)] * 32)
    with pytest.raises(InvalidInputError, match="frames have 320,000,000 pixels, more than"):
        tokens(Video([gif(8000, 8000)] * 5))
    assert time.perf_counter() - start < 2


def test_image_tokens_of_the_text_itself_are_refused():
    """Where a prompt has another word for an image than the token, the token in a text is no placeholder."""
    [image] = [PROCESSOR.preprocess(each) for each in PROCESSOR.plan([pixels(56, 56)])]
    PROCESSOR.check_ids([1, *[7] * image.tokens, 2], [image])
    with pytest.raises(
        InvalidInputError, match=r"the prompt has 5 image tokens .*, and its images have 4; remove those of"
    ):
        PROCESSOR.check_ids([7, 1, *[7] * image.tokens, 2], [image])
    with pytest.raises(InvalidInputError, match=r"the prompt has 1 image tokens .*, and its images have 0"):
        PROCESSOR.check_ids([1, 8, 2])
