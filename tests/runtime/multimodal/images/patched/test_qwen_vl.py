"""Preprocessing and positions of the Qwen-VL models, beside transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from qwen_vl_utils import process_vision_info
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.utils import ModelOutput

from examples.road_scenes.evaluate import CHECKPOINT
from tests.models.tiny_vlms import IMAGE, tiny_vlm
from tests.runtime.multimodal.images.sample_images import SIZES, assert_same_pixels, photo
from tests.runtime.multimodal.images.sample_images import settings_of as sample_settings
from tt_edge.compile.vision.processing.known_prompts import KNOWN_PROMPTS
from tt_edge.contract import IMAGE_TOKENS, VisionGeometry
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.patched.grids import PLACEHOLDERS
from tt_edge.runtime.multimodal.images.patched.qwen_vl import QwenVLProcessor
from tt_edge.runtime.multimodal.images.processed import Span
from tt_edge.runtime.multimodal.images.processors import image_processor_for
from tt_edge.runtime.multimodal.mrope import mrope_positions
from tt_edge.runtime.multimodal.videos.frames import Frames
from tt_edge.runtime.multimodal.videos.processors import video_processor_for


def videos_of(settings):
    return video_processor_for(settings, image_processor_for(settings))


def settings_of(family, image, video=None, **vision):
    patch_dim = 3 * 2 * image.get("patch_size", 14) ** 2
    geometry = VisionGeometry(family, IMAGE_TOKENS, 1, merge_size=2, patch_dim=patch_dim)
    words = PLACEHOLDERS
    if family == "qwen3_vl":
        words = KNOWN_PROMPTS[family].placeholders(PLACEHOLDERS.image, PLACEHOLDERS.video, {})
    given = image if video is None else video
    return sample_settings(family, image, geometry, words, given, vision_config=vision)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_those_of_transformers(size):
    theirs = Qwen2VLImageProcessor()
    want = theirs(images=[Image.fromarray(photo(*size))], return_tensors="np")
    got = QwenVLProcessor().process(photo(*size))
    assert got.grid == tuple(want["image_grid_thw"][0])
    assert got.tokens == np.prod(got.grid) // 4
    assert_same_pixels(got.pixels, want["pixel_values"], np.repeat(theirs.image_std, 2 * 14 * 14))


def test_the_settings_of_a_checkpoint(tmp_path):
    import json

    settings = json.loads((CHECKPOINT / "preprocessor_config.json").read_text())
    ours = image_processor_for(settings_of("qwen2_5_vl", settings))
    theirs = AutoImageProcessor.from_pretrained(CHECKPOINT)
    for size in [(140, 196), (400, 300)]:
        want = theirs(images=[Image.fromarray(photo(*size))], return_tensors="np")
        assert ours.process(photo(*size)).grid == tuple(want["image_grid_thw"][0])


def test_a_strip_is_refused():
    with pytest.raises(InvalidInputError, match="an image of 5000 x 1 pixels is longer than 200 times its width"):
        QwenVLProcessor().process(photo(1, 5000))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_positions_equal_get_rope_index(family):
    model, generator = tiny_vlm(family).model, np.random.default_rng(0)
    for _ in range(20):
        ids, grids = [], []
        for _ in range(generator.integers(0, 4)):
            ids += [5] * generator.integers(1, 6)  # text stands between images: <|vision_start|>
            grids.append((1, 2 * int(generator.integers(1, 6)), 2 * int(generator.integers(1, 6))))
            ids += [IMAGE] * (grids[-1][1] * grids[-1][2] // 4)
        ids += [5] * generator.integers(1, 6)
        kinds = torch.tensor([[int(i == IMAGE) for i in ids]])
        want, delta = model.get_rope_index(torch.tensor([ids]), kinds, torch.tensor(grids) if grids else None)
        got, ours = mrope_positions(np.array(ids) == IMAGE, [Span(grid) for grid in grids], 2)
        assert np.array_equal(got, want[:, 0].numpy())
        assert ours == int(delta)


FAMILIES = {
    "qwen2_vl": (Qwen2VLProcessor, Qwen2VLVideoProcessor, 14),
    "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor, 14),
    "qwen3_vl": (Qwen3VLProcessor, Qwen3VLVideoProcessor, 16),
}


@pytest.mark.parametrize(
    ("count", "size", "fps"),
    [(4, (56, 84), 2.0), (5, (64, 96), 1.0), (2, (20, 200), 4.0), (8, (56, 84), 0.25)],  # the last one is slow
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_videos_are_those_of_transformers(family, count, size, fps):
    """Pixels, prompt and positions of frames given as a list, as the processor and the model of the family make them."""
    make, make_video, patch = FAMILIES[family]
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    small = {"shortest_edge": 4 * 28 * 28, "longest_edge": 64 * 28 * 28}
    videos = make_video(size=small, cap_pixels_per_frame=False)
    theirs = make(Qwen2VLImageProcessor(patch_size=patch), tokenizer, videos)
    frames = [photo(*size, seed=i) for i in range(count)]
    text = "a<|vision_start|><|video_pad|><|vision_end|>b"
    metadata = [{"fps": fps, "total_num_frames": count, "frames_indices": list(range(count))}]
    want = theirs(text=[text], videos=[frames], video_metadata=metadata, do_sample_frames=False, return_tensors="pt")

    model = tiny_vlm(family)
    settings = settings_of(family, {"patch_size": patch}, videos.to_dict(), **model.config.vision_config.to_dict())
    ours = image_processor_for(settings)
    got = videos_of(settings).process(Frames(frames, fps))
    assert got.grid == tuple(want["video_grid_thw"][0].tolist())
    std = np.repeat(videos.image_std, 2 * patch * patch)
    assert_same_pixels(got.pixels, want["pixel_values_videos"].numpy(), std)

    written, leading, ordered = ours.placeholders.expand(text, [got])
    assert tokenizer(written).input_ids == want["input_ids"][0].tolist()
    assert (leading, ordered) == (0, [got])
    is_video = want["mm_token_type_ids"][0] == 2
    more = {k: want[k] for k in ("second_per_grid_ts",) if k in want}
    positions, _ = model.model.get_rope_index(
        want["input_ids"], want["mm_token_type_ids"], None, want["video_grid_thw"], **more
    )
    after = model._update_model_kwargs_for_generation(ModelOutput(), {"position_ids": positions}, num_new_tokens=1)
    ours_positions, ours_delta = mrope_positions(is_video.numpy(), got.spans, 2)
    assert np.array_equal(ours_positions, positions[:, 0].numpy())
    assert after["position_ids"][:, 0, -1].tolist() == 3 * [ours_delta + positions.shape[-1]]


def test_qwen_vl_utils_frames():
    """The frames that qwen-vl-utils prepares, which are of the right size already, come through as they are."""
    frames = [Image.fromarray(photo(112, 168, seed=i)) for i in range(4)]
    messages = [{"role": "user", "content": [{"type": "video", "video": frames, "sample_fps": 2.0}]}]
    _, (prepared,), rates = process_vision_info(messages, return_video_kwargs=True)
    arrays = [frame.permute(1, 2, 0).clamp(0, 255).round().byte().numpy() for frame in prepared]
    theirs = Qwen2VLVideoProcessor(cap_pixels_per_frame=False, do_resize=False)
    want = theirs([prepared.clamp(0, 255).round().byte()], return_tensors="np")
    got = videos_of(settings_of("qwen2_5_vl", {}, theirs.to_dict())).process(Frames(arrays, rates["fps"][0]))
    assert got.grid == tuple(want["video_grid_thw"][0])
    assert_same_pixels(got.pixels, want["pixel_values_videos"], np.repeat(theirs.image_std, 2 * 14 * 14))
