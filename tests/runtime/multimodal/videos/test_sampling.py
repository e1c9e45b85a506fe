"""Which frames of a video are taken, beside transformers' video processors."""

from __future__ import annotations

from functools import partial

import pytest
import transformers
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.videos.by_second import PacedSampling, TickSampling
from tt_edge.runtime.multimodal.videos.sampling import EvenSampling, FrameSampling, MostSampling, WithinSampling

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


SHORT = (*range(1, 40), 99, 100, 101, 299, 300, 1000, 1537)
LONG = (4001, 9000, 72_000, 90_001)
#: Of each class: its settings, the rule, and whether it can be asked for a rate, and for a number of frames.
RULES = {
    "LlavaOnevisionVideoProcessor": ({"fps": 2}, EvenSampling.of, True, True),
    "PerceptionLMVideoProcessor": ({"num_frames": 7}, EvenSampling.of, False, True),
    "InternVLVideoProcessor": ({"fps": 2, "initial_shift": True}, EvenSampling.of, True, True),
    "SmolVLMVideoProcessor": ({"fps": 1, "num_frames": 64}, WithinSampling.of, True, True),
    "VideoLlavaVideoProcessor": ({"fps": 2}, EvenSampling.of, True, True),
    "MuseGlimmerVideoProcessor": ({"num_frames": 64}, partial(MostSampling.of, depth=2), True, True),
    "Cosmos3EdgeVideoProcessor": ({"fps": 2}, partial(FrameSampling.of, depth=1, ends=True), True, False),
    "VideoLlama3VideoProcessor": (
        {"fps": 2, "max_frames": 180},
        partial(FrameSampling.of, depth=1, ends=False),
        True,
        False,
    ),
    "Gemma4VideoProcessor": ({"num_frames": 32}, EvenSampling.of, False, True),
    "Glm4vVideoProcessor": ({"max_duration": 60}, TickSampling.of, True, False),
    "Glm46VVideoProcessor": ({}, partial(PacedSampling.of, own_rate=False), False, False),
    "GlmgaVideoProcessor": ({"fps": 2}, partial(PacedSampling.of, own_rate=True), True, False),
}


@pytest.mark.parametrize("name", RULES)
def test_the_rule_of_each_class(name):
    """Short and long files, at rates of all kinds, as the checkpoint says and as asked for."""
    settings, make, takes_rate, takes_count = RULES[name]
    processor, sampling = getattr(transformers, name)(**settings), make(settings)
    asked = [{}, *([{"fps": 0.5}, {"fps": 3.7}] if takes_rate else []), *([{"count": 4}] if takes_count else [])]
    compared = refused = 0
    for one in asked:
        theirs = {"num_frames" if key == "count" else key: value for key, value in one.items()}
        if name == "InternVLVideoProcessor" and not one:
            theirs = {"fps": settings["fps"]}  # it reads the rate of a call only
        if name.startswith("Muse"):
            theirs["temporal_patch_size"] = processor.temporal_patch_size
        for total in SHORT + (LONG if not one else ()):
            for rate in (1.0, 7.5, 30000 / 1001, 60.0):
                metadata = VideoMetadata(total_num_frames=total, fps=rate, duration=total / rate)
                try:
                    wanted = processor.sample_frames(metadata, **theirs).tolist()
                except (ValueError, ZeroDivisionError, RuntimeError):
                    wanted = []
                if not wanted:
                    with pytest.raises(InvalidInputError, match=f"the video has {total} frames, and .* longer one"):
                        sampling.places(total, rate, **one)
                    refused += 1
                    continue
                found = sampling.places(total, rate, **one)
                wanted = wanted[: -1 if wanted[-1] >= total else None]  # VideoLlama3VideoProcessor, too
                assert len(found) == len(wanted), (one, total, rate)
                apart = [abs(one - other) for one, other in zip(found, wanted, strict=True)]
                assert max(apart) <= (name.startswith("Muse") or (total > 10_000 and "InternVL" in name)), (
                    one,
                    total,
                    rate,
                )
                compared += 1
    assert compared > 100 * len(asked)
    assert refused < compared


def test_what_a_rule_cannot_be_asked():
    refused = {
        "num_frames is 4, and this model takes frames by the second; give fps": (TickSampling(), {"count": 4}),
        "fps is 2, and this model takes frames by a rule of its own; omit it": (PacedSampling(), {"fps": 2.0}),
        "num_frames is 4, and this model takes frames by a rule of its own; give fps": (
            PacedSampling(fps=1.0),
            {"count": 4},
        ),
    }
    for message, (sampling, asked) in refused.items():
        with pytest.raises(InvalidInputError, match=message):
            sampling.places(100, 10.0, **asked)
