"""Which frames of a video are taken, beside transformers' video processors."""

from __future__ import annotations

import pytest
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.patched.sampling import FrameSampling

TOTALS = (*range(2, 40), 99, 100, 101, 299, 1000, 1537, 4001, 90001)
RATES = (1.0, 7.5, 24.0, 30000 / 1001, 30.0, 60.0, 1000.0)


@pytest.mark.parametrize(
    "asked", [{}, {"fps": 0.5}, {"fps": 2.0}, {"fps": 3.7}, {"count": 2}, {"count": 5}, {"count": 32}]
)
@pytest.mark.parametrize("ends", [False, True])
def test_the_processors_frames(ends, asked):
    kind = Qwen3VLVideoProcessor if ends else Qwen2VLVideoProcessor
    processor, sampling = kind(fps=2), FrameSampling.of({}, 2, ends=ends)
    theirs = {"num_frames" if name == "count" else name: value for name, value in asked.items()}
    compared = 0
    for total in TOTALS:
        for rate in RATES:
            try:
                wanted = processor.sample_frames(VideoMetadata(total_num_frames=total, fps=rate), **theirs).tolist()
            except (ValueError, ZeroDivisionError, RuntimeError):
                wanted = None
            if wanted is None:
                with pytest.raises(InvalidInputError, match=f"the video has {total} frames, and .* give a longer one"):
                    sampling.places(total, rate, **asked)
                continue
            found = sampling.places(total, rate, **asked)
            wanted = wanted[: -1 if wanted[-1] >= total else None]  # Qwen2VLVideoProcessor may go one beyond the end
            assert len(found) == len(wanted)
            apart = [abs(one - other) for one, other in zip(found, wanted, strict=True)]
            assert max(apart) <= (total > 10_000), (total, rate)  # torch.arange in float32
            compared += 1
    assert compared > 100


BOUNDED = {"fps": 1.5, "min_frames": 6, "max_frames": 12}


@pytest.mark.parametrize(
    ("ends", "settings"),
    [(False, {"num_frames": 8}), (False, {"fps": 1}), (True, {"fps": 1}), (False, BOUNDED), (True, BOUNDED)],
)
def test_settings_of_a_checkpoint(ends, settings):
    processor = (Qwen3VLVideoProcessor if ends else Qwen2VLVideoProcessor)(**settings)
    sampling = FrameSampling.of(settings, 2, ends=ends)
    for total in (20, 64, 500):
        metadata = VideoMetadata(total_num_frames=total, fps=25.0)
        assert sampling.places(total, 25.0) == processor.sample_frames(metadata).tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0 of videos, and must be 1 or more"),
        ({"max_frames": "many"}, "max_frames is 'many' of videos"),
        ({"fps": -1}, "fps is -1 of videos, and must be above 0"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(ValueError, match=message):
        FrameSampling.of(settings, 2, ends=False)
