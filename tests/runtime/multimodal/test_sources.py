"""The images of conversations and of JSONL lines, and what is no image."""

from __future__ import annotations

import numpy as np
import pytest

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images import ImageOptions
from tt_edge.runtime.multimodal.sources import Video, images_of, images_of_row


def user(*parts):
    return {"role": "user", "content": list(parts)}


def test_images_of_every_form_in_order():
    pixels = np.zeros((2, 2, 3), np.uint8)
    messages = [
        {"role": "system", "content": "Look."},
        user({"type": "image", "image": "a.png"}, {"type": "text", "text": "and"}, {"type": "image", "path": "b.png"}),
        user({"type": "image", "url": "c.png"}, {"type": "image", "image": pixels}),
        user({"type": "image_url", "image_url": {"url": "d.png"}}, {"type": "image_url", "image_url": "e.png"}),
        user({"type": "image", "base64": "AAAA"}),
    ]
    wanted = ["a.png", "b.png", "c.png", pixels, "d.png", "e.png", "data:image;base64,AAAA"]
    assert images_of(messages) == wanted


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "a.png", "max_pixels": 5000},
        {"type": "image_url", "image_url": "a.png", "max_pixels": 5000},
        {"type": "image_url", "image_url": {"url": "a.png", "max_pixels": 5000, "detail": "high"}},
    ],
)
def test_sizes_that_are_asked_for(part):
    (image,) = images_of([user(part)])
    assert (image.image, image.options) == ("a.png", ImageOptions(max_pixels=5000))


@pytest.mark.parametrize(("given", "fps"), [({}, 2.0), ({"fps": 4}, 4), ({"sample_fps": 1.5, "fps": 4}, 1.5)])
def test_videos(given, fps):
    (video,) = images_of([user({"type": "video", "video": ["a.png", "b.png"], **given})])
    assert isinstance(video, Video)
    assert (video.frames, video.fps) == (("a.png", "b.png"), fps)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"video": 5}, "video 5 is no file and no list; give a file, or a list of frames"),
        ({"video": "a.mp4", "fps": 2, "num_frames": 4}, r"video a\.mp4 has fps 2 and num_frames 4; give one"),
        (
            {"video": "a.mp4", "fps": 0},
            r"video a\.mp4 has fps 0; give how many frames of a second to take, from 0\.001 to",
        ),
        ({"video": "a.mp4", "num_frames": 1.5}, r"video a\.mp4 has num_frames 1\.5; give how many frames to take"),
        (
            {"video": ["a.png"], "fps": None},
            r"a video's fps is None; give its frames a second, a number from 0\.001 to 1000",
        ),
    ],
)
def test_videos_that_are_none(part, message):
    with pytest.raises(InvalidInputError, match=message):
        images_of([user({"type": "video", **part})])


@pytest.mark.parametrize("fps", ["2", None, [2], 0, -1, 1e-30, float("inf"), float("nan")])
def test_rates_that_no_video_has(fps):
    """A rate near nothing made positions overflow, and NaN passed through to them."""
    with pytest.raises(InvalidInputError, match=r"a video's fps is .*; give its frames a second"):
        Video(["a.png"], fps)


@pytest.mark.parametrize("message", [None, 5, "hello", {"role": "user"}, user(5, None)])
def test_what_is_no_message_has_no_images(message):
    assert images_of([message]) == []


def test_images_of_a_row(tmp_path):
    messages = [user({"type": "image", "image": "own.png"})]
    beside = (str(tmp_path / "a.png"), str(tmp_path / "b.png"))
    assert images_of_row({"images": ["a.png", "b.png"], "messages": messages}, tmp_path) == beside
    assert images_of_row({"messages": messages}, tmp_path) == ("own.png",)
    assert images_of_row({"prompt": "no image", "messages": None}, tmp_path) == ()
    for bad in ("a.png", [5], None):
        with pytest.raises(InvalidInputError, match="give a list of file names"):
            images_of_row({"images": bad}, tmp_path)
