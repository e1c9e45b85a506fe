"""Video files: what is read, and what is refused. Beside transformers: ``tests/compile/vision/test_vlm_checkpoints.py``."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.runtime.multimodal.videos.video_files import write_film
from tt_edge.errors import InvalidInputError, MissingDependencyError
from tt_edge.runtime.multimodal.sources import VideoFile
from tt_edge.runtime.multimodal.videos.file import read_video
from tt_edge.runtime.multimodal.videos.sampling import FrameSampling

#: Each of another grey, with a corner that shows how a frame is turned.
FRAMES = [np.full((40, 64, 3), 8 * i + 4, np.uint8) for i in range(30)]
for frame in FRAMES:
    frame[:16, :16] = 255 - frame[0, 0]
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("films")


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_frames_are_those_of_their_places(folder, ending):
    """Also in a format that does not say how many frames there are (Matroska)."""
    file = write_film(folder / f"film.{ending}", FRAMES, 20)
    video = read_video(VideoFile(file, fps=4.0), FrameSampling(ends=True), LIMIT)
    assert video.times == pytest.approx([place / 20 for place in (0, 6, 12, 17, 23, 29)])
    assert video.fps == pytest.approx(6 / 30 * 20)
    assert video.duration == pytest.approx(1.5)
    for frame, place in zip(video.frames, (0, 6, 12, 17, 23, 29), strict=True):
        errors = [np.abs(frame.astype(int) - each.astype(int)).mean() for each in FRAMES]
        assert int(np.argmin(errors)) == place


def test_a_film_that_is_turned(folder):
    """As a phone writes it that is held upright."""
    import av

    plain, turned = folder / "plain.mp4", folder / "turned.mp4"
    write_film(plain, FRAMES[:4], 4)
    with av.open(str(plain)) as given, av.open(str(turned), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        stream.set_display_rotation(90)
        for packet in given.demux(given.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    with av.open(str(turned)) as container:
        rotation = next(container.decode(video=0)).rotation
    assert abs(rotation) == 90
    [frame, *_] = read_video(VideoFile(str(turned)), FrameSampling(), LIMIT).frames
    [straight, *_] = read_video(VideoFile(str(plain)), FrameSampling(), LIMIT).frames
    np.testing.assert_array_equal(frame, np.rot90(straight, rotation // 90 % 4))


def test_what_is_refused(folder, tmp_path):
    film = write_film(folder / "whole.mp4", FRAMES, 20)
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "cut.mp4").write_bytes((folder / "whole.mp4").read_bytes()[:1500])
    refused = {
        "nowhere.mp4": r"video nowhere\.mp4 does not exist; give a file",
        str(tmp_path): "is a folder; give a file",
        "https://a.b/c.mp4": r"video https://a\.b/c\.mp4 is a URL, and nothing is downloaded here; give a file",
        str(tmp_path / "cut.mp4"): r"cut\.mp4 cannot be read \(.*\); give a file that FFmpeg reads",
        str(tmp_path / "text.mp4"): r"text\.mp4 cannot be read \(.*\); give a file that FFmpeg reads",
    }
    for file, message in refused.items():
        with pytest.raises(InvalidInputError, match=message):
            read_video(VideoFile(file), FrameSampling(), LIMIT)
    with pytest.raises(
        InvalidInputError,
        match=r"4 frames of video .*whole\.mp4, 64 x 40 pixels each, have 10,240 pixels, more than 100; take",
    ):
        read_video(VideoFile(film), FrameSampling(), 100)
    with pytest.raises(
        InvalidInputError, match="the video has 30 frames, and 64 are to be taken; give a longer one, or fewer"
    ):
        read_video(VideoFile(film, count=64), FrameSampling(), LIMIT)


def test_without_pyav(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"video files are read with PyAV; pip install 'tt-edge\[video\]'"):
        read_video(VideoFile("a.mp4"), FrameSampling(), LIMIT)
