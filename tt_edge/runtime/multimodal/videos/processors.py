"""Videos by the class of a checkpoint's video processor: one record a class, none a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.processor_types import HALF, MEAN, PROCESSOR_TYPES, STD, ProcessorType
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings
from tt_edge.runtime.multimodal.videos.frames import Frames
from tt_edge.runtime.multimodal.videos.grids import GridVideos
from tt_edge.runtime.multimodal.videos.sampling import Sampling
from tt_edge.runtime.multimodal.videos.tiles import TileVideos

#: How frames are chosen from a file, by the rule of each class.
_SAMPLING = ("do_sample_frames", "fps", "num_frames", "min_frames", "max_frames", "return_metadata", "video_metadata")
_CROPS = ("crop_size", "do_center_crop")


class VideoProcessor(Protocol):
    """From frames to what the vision network takes."""

    @property
    def sampling(self) -> Sampling:
        """Which frames of a file are taken."""

    def process(self, frames: Frames) -> ProcessedImage:
        """Preprocess a video. Raises ``InvalidInputError`` for frames that it cannot take."""


@dataclass(frozen=True)
class VideoType:
    """A class of transformers: its settings, and what makes the preprocessing of them and of the images' processor."""

    settings: ProcessorType
    make: Callable[[CheckpointSettings, Any], VideoProcessor]

    def complete(self, video: Mapping[str, Any], images: str) -> dict[str, Any]:
        """``video`` with the defaults, and without what the class of image processor ``images`` reads and this one does not.

        (A checkpoint without settings of its video processor has those of its image processor for it.) Raises
        ``UnsupportedModelError`` for a setting that is not followed.
        """
        own, theirs = self.settings, PROCESSOR_TYPES[images]
        known = {*own.defaults, *own.reads, *own.inert, *own.only, "do_resize"}
        others = {*theirs.reads, *theirs.inert, *theirs.only} - known
        return own.complete({name: value for name, value in video.items() if name not in others}, of_video=True)


_QWEN = PROCESSOR_TYPES["Qwen2VLImageProcessor"]
#: What it lacks is as for images.
_QWEN_VIDEO = ProcessorType(
    {},
    (*_QWEN.reads, "do_resize"),
    inert=(*_SAMPLING, "max_video_tokens"),
    only={"cap_pixels_per_frame": (False, None)},
    sizes=_QWEN.sizes,
)


def _tiles(*reads: str, inert: tuple[str, ...] = (), **defaults: Any) -> ProcessorType:
    """Of a class that resizes frames as images are, and may cut out their middle."""
    edges = (frozenset({"shortest_edge"}), frozenset({"height", "width"}))
    return ProcessorType(
        {"resample": 3, "image_mean": MEAN, "image_std": STD, **defaults},
        (*_CROPS, *reads),
        inert=(*_SAMPLING, *inert),
        sizes=edges,
        edge=True,
    )


def _glm(longest: int, *reads: str) -> ProcessorType:
    return ProcessorType(
        {
            "resample": 3,
            "image_mean": MEAN,
            "image_std": STD,
            "size": {"shortest_edge": 112 * 112, "longest_edge": longest},
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
        ("patch_size", "temporal_patch_size", "merge_size", *reads),
        inert=(*_SAMPLING, "max_image_size", "max_duration"),
        sizes=(frozenset({"shortest_edge", "longest_edge"}),),
    )


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


_CROPPED: dict[str, Any] = {"size": {"shortest_edge": 224}, "crop_size": _square(224), "do_center_crop": True}

_GEMMA4 = VideoType(
    ProcessorType(
        {
            "resample": 3,
            "image_mean": (0.0, 0.0, 0.0),
            "image_std": (1.0, 1.0, 1.0),
            "patch_size": 16,
            "max_soft_tokens": 70,
            "pooling_kernel_size": 3,
            "num_frames": 32,
        },
        ("patch_size", "max_soft_tokens", "pooling_kernel_size"),
        inert=_SAMPLING,
        sizes=(),
    ),
    GridVideos.of_gemma4,
)

#: Of a class whose patches have settings of their own.
_PATCHES = ("patch_size", "temporal_patch_size", "merge_size")
_EDGES = (frozenset({"shortest_edge", "longest_edge"}),)
_COSMOS_EDGE = ProcessorType(
    {
        "resample": 3,
        "image_mean": HALF,
        "image_std": HALF,
        "size": {"shortest_edge": 64 * 64, "longest_edge": 24 << 20},
        "patch_size": 16,
        "temporal_patch_size": 1,
        "merge_size": 2,
    },
    _PATCHES,
    inert=(*_SAMPLING, "max_image_size", "max_duration"),
    sizes=_EDGES,
)
_LLAMA3 = ProcessorType(
    {
        "resample": 3,
        "image_mean": HALF,
        "image_std": HALF,
        "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768},
        "patch_size": 14,
        "temporal_patch_size": 1,
        "merge_size": 2,
        "max_frames": 180,
        "use_token_compression": True,
    },
    (*_PATCHES, "use_token_compression", "min_pixels", "max_pixels"),
    inert=_SAMPLING,
    sizes=_EDGES,
)
_MUSE = ProcessorType(
    {
        "resample": 1,
        "image_mean": HALF,
        "image_std": HALF,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "max_video_frame_tokens": 144,
        "num_frames": 96,
    },
    (*_PATCHES, "max_video_frame_tokens"),
    inert=(*_SAMPLING, "frame_timestamp_format"),  # found in what it writes
    sizes=(),
)

#: By the class's name.
VIDEO_TYPES: dict[str, VideoType] = {
    "Qwen2VLVideoProcessor": VideoType(_QWEN_VIDEO, GridVideos.of_qwen2),
    "Qwen3VLVideoProcessor": VideoType(_QWEN_VIDEO, GridVideos.of_qwen3),
    "CohereCompassVideoProcessor": VideoType(_QWEN_VIDEO, GridVideos.of_qwen3),
    "Glm4vVideoProcessor": VideoType(_glm(28 * 28 * 2 * 30000), GridVideos.of_glm4),
    "Glm46VVideoProcessor": VideoType(_glm(28 * 28 * 2 * 30000), GridVideos.of_glm46),
    "GlmgaVideoProcessor": VideoType(_glm(28 * 28 * 2 * 55790, "patch_expand_factor"), GridVideos.of_glmga),
    "Cosmos3EdgeVideoProcessor": VideoType(_COSMOS_EDGE, GridVideos.of_cosmos_edge),
    "VideoLlama3VideoProcessor": VideoType(_LLAMA3, GridVideos.of_llama3),
    "MuseGlimmerVideoProcessor": VideoType(_MUSE, GridVideos.of_muse),
    "Gemma4VideoProcessor": _GEMMA4,
    "Gemma4UnifiedVideoProcessor": _GEMMA4,
    "InternVLVideoProcessor": VideoType(
        _tiles("initial_shift", size=_square(384), initial_shift=True), TileVideos.of_squares
    ),
    "LlavaOnevisionVideoProcessor": VideoType(_tiles(size=_square(384)), TileVideos.of_squares),
    "VideoLlavaVideoProcessor": VideoType(_tiles(**_CROPPED), TileVideos.of_squares),
    "LlavaNextVideoVideoProcessor": VideoType(_tiles(**_CROPPED), TileVideos.of_squares),
    "PerceptionLMVideoProcessor": VideoType(
        _tiles(size=_square(448), image_mean=HALF, image_std=HALF), TileVideos.of_squares
    ),
    "Vila": VideoType(ProcessorType({}, inert=_SAMPLING), TileVideos.of_vila),  # code of NVIDIA's
    "SmolVLMVideoProcessor": VideoType(
        ProcessorType(
            {
                "resample": 1,
                "image_mean": HALF,
                "image_std": HALF,
                "size": {"longest_edge": 4 * 364},
                "max_image_size": {"longest_edge": 364},
            },
            ("max_image_size",),
            inert=(*_SAMPLING, "do_pad"),
            sizes=(frozenset({"longest_edge"}),),
        ),
        TileVideos.of_smolvlm,
    ),
}


def video_processor_for(settings: CheckpointSettings, image: Any) -> VideoProcessor | None:
    """The preprocessing of a checkpoint's videos, beside that of its images; ``None`` for a model that takes none.

    Raises ``UnsupportedModelError`` for a setting that changes pixels in a way that is not followed here; ``BundleError`` for
    malformed settings.
    """
    name = settings.video_processor
    if name is None or settings.placeholders.video is None:
        return None
    if name not in VIDEO_TYPES:
        raise UnsupportedModelError(
            f"the video processor is {name!r:.80}, which is not one of the {len(VIDEO_TYPES)} that tt-edge follows"
        )
    kind, images = VIDEO_TYPES[name], PROCESSOR_TYPES[settings.processor]
    video = kind.complete(settings.video, settings.processor)
    return kind.make(replace(settings, video=video, image=images.complete(settings.image)), image)
