"""What a compile found of images, read again from a bundle that nobody vouches for."""

from __future__ import annotations

import json

import pytest

from tt_edge.compile.files import HostFiles
from tt_edge.errors import BundleError
from tt_edge.runtime.multimodal.images.image_prompt import IMAGE_PROMPT_FILE, ImagePrompt
from tt_edge.runtime.multimodal.images.placeholders import Placeholders, TileText
from tt_edge.runtime.multimodal.leading import LeadingImage
from tt_edge.runtime.multimodal.videos.frame_text import FrameText

FOUND = ImagePrompt(
    "GotOcr2ImageProcessor",
    Placeholders("<image>", None, "<s>", "</s>", tiles=TileText("<s>", "<c>", "<r>", "<w>", "</s>")),
    (300,),
    {"max_patches": 3, "crop_to_patches": True},
)


def read(content):
    return ImagePrompt.read(HostFiles({IMAGE_PROMPT_FILE: content}))


def test_what_is_written_is_read():
    assert read(FOUND.to_json()) == FOUND
    leading = LeadingImage((0,), (1, 2), (3,), " ", True)
    found = ImagePrompt("X", Placeholders("I", "V", leading=True), (1, 2), {}, "reader", leading)
    assert read(found.to_json()) == found
    learned = ImagePrompt("X", Placeholders("I", learned=("<s>", "</s>")), (1, 2, 3))
    assert read(learned.to_json()) == learned
    words = Placeholders("I", "V", frames=FrameText("{number}", "{past_seconds}", "", "I"))
    filmed = ImagePrompt("X", words, (1, 2), video="Qwen2VLVideoProcessor", no_videos="why")
    assert read(filmed.to_json()) == filmed


def test_a_bundle_without_it():
    with pytest.raises(BundleError, match="no image token, so images cannot be prepared; compile from a checkpoint"):
        ImagePrompt.read(HostFiles())
    with pytest.raises(
        BundleError, match=r"has no image_prompt\.json: it is from an earlier tt-edge.*; compile the model again"
    ):
        ImagePrompt.read(HostFiles({"preprocessor_config.json": b"{}"}))


@pytest.mark.parametrize(
    "change",
    [
        {"placeholders": None},
        {"placeholders": {"image": 3}},
        {"placeholders": {"image": "<image>", "frames": None, "tiles": {"start": 1}}},
        {"placeholders": {"image": "<image>", "frames": None, "tiles": None, "numbered": "yes"}},
        {"placeholders": {"image": "<image>", "frames": None, "tiles": None, "other": ""}},
        {"placeholders": {"image": "<image>", "frames": None, "tiles": None, "learned": "ab"}},
        {"placeholders": {"image": "<image>", "frames": None, "tiles": None, "learned": [3]}},
        {"placeholders": {"image": "<image>", "frames": None, "tiles": None, "learned": [""]}},
        {"placeholders": {"image": None, "frames": None, "tiles": None}},
        {"placeholders": {"image": "", "frames": None, "tiles": None}},
        {"placeholders": {"image": "<image>", "written": "", "frames": None, "tiles": None}},
        {"placeholders": {"image": "<image>", "start": None, "frames": None, "tiles": None}},
        {"placeholders": {"image": "<image>", "tiles": None}},
        {"placeholders": {"image": "<image>", "tiles": None, "frames": {"start": 1}}},
        {"placeholders": {"image": "<image>", "tiles": None, "frames": {"first": ""}}},
        {"video": 5},
        {"token_ids": ["x"]},
        {"token_ids": []},
        {"token_ids": "12"},
        {"token_ids": [-1]},
        {"token_ids": [1.5]},
        {"token_ids": [True]},
        {"token_ids": [10**30]},
        {"token_ids": 3},
        {"settings": 5},
        {"instruction": 5},
        {"leading": 5},
        {"leading": {"before": [], "image": [], "behind": [], "start": "", "strips": False}},
        {"leading": {"before": [-1], "image": [3], "behind": [], "start": "", "strips": False}},
        {"leading": {"before": [1], "image": [3], "behind": [], "start": None, "strips": False}},
    ],
    ids=str,
)
def test_malformed_records_are_refused_in_one_line(change):
    content = json.dumps(json.loads(FOUND.to_json()) | change).encode()
    with pytest.raises(BundleError, match=r"image_prompt\.json is malformed \(.*\); compile the model again") as found:
        read(content)
    assert "\n" not in str(found.value)
