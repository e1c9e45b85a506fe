"""The rule by which a processor writes a video is found from what it wrote, and a processor without one is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tt_edge.compile.vision.processing.fit_frames import Filmed, fit_frames
from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.videos.frame_text import FrameText

TIMES = ((40.0, 120.0, 160.4), (80.0, 200.0, 250.5, 300.0))


def seen(write):
    videos = [ProcessedImage(np.zeros((len(times), 1), np.float32), None, 2 * len(times)) for times in TIMES]
    return [Filmed(write(times), video, times) for times, video in zip(TIMES, videos, strict=True)]


@pytest.mark.parametrize(
    ("write", "rule"),
    [
        (lambda times: "V" * 2 * len(times), None),
        (
            lambda times: "<s>" + "<c>".join(f"Time: {t:.1f}s|VV" for t in times) + "<e>",
            FrameText("<s>Time: {seconds}s|", "<c>Time: {seconds}s|", "<e>"),
        ),
        (
            lambda times: "".join(f"<s>VV</s>{int(t)}" for t in times),
            FrameText("<s>", "</s>{past_second}<s>", "</s>{past_second}"),
        ),
        (
            lambda times: " ".join(f"{int(t) // 60:02d}:{int(t) % 60:02d} VV." for t in times),
            FrameText("{clock} ", ". {clock} ", "."),
        ),
        (
            lambda times: "\n".join(f"Frame{number} of 7: VV" for number, _ in enumerate(times, 1)),
            FrameText("Frame{number} of 7: ", "\nFrame{number} of 7: ", ""),
        ),
    ],
)
def test_rules(write, rule):
    assert fit_frames("V", "V", seen(write)) == rule


def test_a_video_in_tokens_of_images():
    assert fit_frames("I", "V", seen(lambda times: "I" * 2 * len(times))) == FrameText(token="I")
    assert fit_frames("I", "V", seen(lambda times: "|".join("II" for _ in times))) == FrameText("", "|", "", "I")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda times: "|".join("VV" for _ in times[1:]),
            "writes 2 runs of tokens for a video of 3 frames, which follows no",
        ),
        (
            lambda times: f"{sum(times):.0f}" + "VV" * len(times),
            "its processor writes the video '.*', which follows no rule",
        ),
        (lambda times: "VVV" + "|VV" * (len(times) - 1), "its processor writes the video '.*', which follows no rule"),
    ],
)
def test_processors_without_a_rule(write, message):
    with pytest.raises(UnsupportedModelError, match=message):
        fit_frames("V", "V", seen(write))
