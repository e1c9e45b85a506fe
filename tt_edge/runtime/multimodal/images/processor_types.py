"""The image processors of transformers: what each does by default, and which of its settings are followed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tt_edge.errors import UnsupportedModelError

#: OpenAI's mean and deviation, of CLIP.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
#: ImageNet's "standard" ones.
HALF = (0.5, 0.5, 0.5)

#: Settings that the runtime reads, of every processor.
_READ = frozenset({"size", "resample", "image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor"})
#: Settings that change no pixels of an RGB image, which every image is here.
_INERT = frozenset(
    {
        "_valid_processor_keys",
        "aspect_ratio_setting",
        "auto_map",
        "data_format",
        "default_to_square",
        "device",
        "disable_grouping",
        "do_convert_rgb",
        "feature_extractor_type",
        "image_processor_type",
        "image_seq_length",
        "input_data_format",
        "processor_class",
        "return_row_col_info",
        "return_tensors",
        "video_processor_type",
        "video_sampling",
    }
)
#: Without these a setting says nothing.
_OFF = (False, None)


@dataclass(frozen=True)
class ProcessorType:
    """A class of transformers. ``defaults`` are its settings where a checkpoint has none.

    ``reads`` are the settings that the runtime follows beside those of every processor, ``inert`` those that change no pixels,
    and ``only`` has the values that others may have. ``sizes`` are the sets of names that ``size`` may have, none where it is not
    read; with ``edge``, one number for it is the shortest edge, not a square's side.
    """

    defaults: Mapping[str, Any]
    reads: tuple[str, ...] = ()
    inert: tuple[str, ...] = ()
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    sizes: tuple[frozenset[str], ...] = (frozenset({"height", "width"}),)
    edge: bool = False

    def complete(self, settings: Mapping[str, Any], *, of_video: bool = False) -> dict[str, Any]:
        """``settings`` with the defaults. Raises ``UnsupportedModelError``, naming it, for one that is not followed here."""
        found = {**self.defaults, **settings}
        kind = "video" if of_video else "image"
        only = {"do_resize": (True,), **self.only}
        crops = "do_center_crop" in self.reads and bool(found.get("do_center_crop"))
        for name, value in found.items():
            if name in only and name not in self.reads:
                followed = any(value is each for each in only[name])
            else:
                ignored = name in _INERT or name in self.inert or (name == "crop_size" and not crops)
                followed = ignored or name in _READ or name in self.reads or value in _OFF
            if not followed:
                allowed = " or ".join(map(repr, only.get(name, ("none",))))
                raise UnsupportedModelError(
                    f"the {kind} processor's setting {name} is {value!r:.80}, which tt-edge does not follow (only {allowed}); "
                    f"images would be prepared otherwise than in training. Remove it from preprocessor_config.json only if the "
                    "model does without, and compile again"
                )
        if not self.sizes:
            return found
        size = found.get("size")
        if self.edge and isinstance(size, int) and not found.get("default_to_square"):
            found["size"] = size = {"shortest_edge": size}
        if isinstance(size, Mapping):
            size = {name: length for name, length in size.items() if length is not None}
            followed = any(size.keys() <= each for each in self.sizes)  # what is missing is named where it is read
        else:  # none, or one number for a square
            followed = size is None or any({"height", "width"} <= each for each in self.sizes)
        if not followed:
            allowed = ", or ".join(" and ".join(sorted(each)) for each in self.sizes)
            raise UnsupportedModelError(
                f"the {kind} processor's setting size is {size!s:.80}, which tt-edge does not follow (only {allowed}); "
                "correct preprocessor_config.json and compile again"
            )
        return found


def _square(size: int) -> dict[str, int]:
    return {"height": size, "width": size}


_OPENAI: dict[str, Any] = {"resample": 3, "image_mean": MEAN, "image_std": STD}
_CROPPED = _OPENAI | {"size": {"shortest_edge": 224}, "crop_size": _square(224), "do_center_crop": True}
_EDGE_OR_BOTH = (frozenset({"shortest_edge"}), frozenset({"height", "width"}))
_CROPS = ("crop_size", "do_center_crop")
_TILED: dict[str, Any] = {"min_patches": 1, "max_patches": 12, "crop_to_patches": False}
_PADDED: dict[str, Any] = {"size": _square(384), "min_size": 14, "do_pad": True}
_LARGER: dict[str, Any] = {
    "high_res_size": _square(1024),
    "high_res_resample": 3,
    "high_res_image_mean": MEAN,
    "high_res_image_std": STD,
}
_COMPUTED = ("background_color",)  # from image_mean
_EDGES = (frozenset({"shortest_edge", "longest_edge"}),)
_SPLIT = ProcessorType(
    {
        "resample": 1,
        "image_mean": HALF,
        "image_std": HALF,
        "size": {"longest_edge": 4 * 364},
        "max_image_size": {"longest_edge": 364},
        "do_image_splitting": True,
    },
    reads=("do_resize", "do_image_splitting", "max_image_size"),
    inert=("do_pad",),
    sizes=(frozenset({"longest_edge"}),),
)


def _grid(
    patch: int,
    frames: int,
    pixels: tuple[int, int],
    *,
    more: tuple[str, ...] = ("min_pixels", "max_pixels"),
    edges: tuple[frozenset[str], ...] = _EDGES,
    only: Mapping[str, tuple[Any, ...]] | None = None,
    **defaults: Any,
) -> ProcessorType:
    """Of a processor that cuts images into grids of patches: with the least and most ``pixels``, and ``more`` settings."""
    size = {"shortest_edge": pixels[0], "longest_edge": pixels[1]}
    sizes = {"patch_size": patch, "temporal_patch_size": frames, "merge_size": 2}
    return ProcessorType(_OPENAI | {"size": size} | sizes | defaults, (*sizes, *more), only=only or {}, sizes=edges)


_BUDGET = ProcessorType(
    {
        "resample": 3,
        "image_mean": (0.0, 0.0, 0.0),
        "image_std": (1.0, 1.0, 1.0),
        "do_normalize": False,
        "patch_size": 16,
        "max_soft_tokens": 280,
        "pooling_kernel_size": 3,
    },
    reads=("patch_size", "max_soft_tokens", "pooling_kernel_size"),
    sizes=(),
)


#: By the class's name. ``do_pad`` is inert where it only pads the images of a batch to one size.
PROCESSOR_TYPES: dict[str, ProcessorType] = {
    "CLIPImageProcessor": ProcessorType(_CROPPED, _CROPS, sizes=_EDGE_OR_BOTH, edge=True),
    "LlavaImageProcessor": ProcessorType(
        _CROPPED | {"do_pad": False}, (*_CROPS, "do_pad"), sizes=_EDGE_OR_BOTH, edge=True
    ),
    "ChameleonImageProcessor": ProcessorType(
        {
            "resample": 1,
            "image_mean": (1.0, 1.0, 1.0),
            "image_std": (1.0, 1.0, 1.0),
            "size": {"shortest_edge": 512},
            "crop_size": _square(512),
            "do_center_crop": True,
            "rescale_factor": 0.0078,
        },
        _CROPS,
        sizes=_EDGE_OR_BOTH,
        edge=True,
    ),
    "BlipImageProcessor": ProcessorType(_OPENAI | {"size": _square(384)}),
    "SiglipImageProcessor": ProcessorType(
        {"resample": 3, "image_mean": HALF, "image_std": HALF, "size": _square(224)}, edge=True
    ),
    "Gemma3ImageProcessor": ProcessorType(
        {"resample": 2, "image_mean": HALF, "image_std": HALF, "size": _square(224)},
        inert=("pan_and_scan_min_crop_size", "pan_and_scan_max_num_crops", "pan_and_scan_min_ratio_to_activate"),
        only={"do_pan_and_scan": _OFF},
    ),
    "LlavaNextImageProcessor": ProcessorType(
        _CROPPED, (*_CROPS, "image_grid_pinpoints"), inert=("do_pad",), sizes=_EDGE_OR_BOTH, edge=True
    ),
    "LlavaOnevisionImageProcessor": ProcessorType(
        _OPENAI | {"size": _square(384)},
        (*_CROPS, "image_grid_pinpoints"),
        inert=("do_pad",),
        sizes=_EDGE_OR_BOTH,
        edge=True,
    ),
    "Idefics3ImageProcessor": _SPLIT,
    "SmolVLMImageProcessor": _SPLIT,
    "Idefics2ImageProcessor": ProcessorType(
        {
            "resample": 2,
            "image_mean": HALF,
            "image_std": HALF,
            "size": {"shortest_edge": 378, "longest_edge": 980},
            "do_image_splitting": False,
        },
        reads=("do_image_splitting",),
        inert=("do_pad",),
        sizes=_EDGES,
    ),
    "GotOcr2ImageProcessor": ProcessorType(
        _OPENAI | {"size": _square(384), **_TILED},
        tuple(_TILED),
        only={"use_thumbnail": (True,)},
    ),
    "PPChart2TableImageProcessor": ProcessorType(_OPENAI | {"size": _square(1024)}),
    "VideoLlavaImageProcessor": ProcessorType(
        _CROPPED, _CROPS, inert=("return_legacy_image_output",), sizes=_EDGE_OR_BOTH, edge=True
    ),
    "DeepseekVLImageProcessor": ProcessorType(_OPENAI | _PADDED, ("min_size", "do_pad"), _COMPUTED),
    "DeepseekVLHybridImageProcessor": ProcessorType(
        _OPENAI | _PADDED | _LARGER, ("min_size", "do_pad", *_LARGER), (*_COMPUTED, "high_res_background_color")
    ),
    "JanusImageProcessor": ProcessorType(_OPENAI | _PADDED, ("min_size", "do_pad"), _COMPUTED),
    "Cohere2VisionImageProcessor": ProcessorType(
        _OPENAI | {"size": _square(512), **_TILED, "crop_to_patches": True}, tuple(_TILED), inert=("patch_size",)
    ),
    "GraniteDoclingImageProcessor": ProcessorType(
        _OPENAI | {"size": _square(512), **_TILED, "max_patches": 32, "crop_to_patches": True},
        tuple(_TILED),
        inert=("dense_max_scale", "dense_min_aspect", "dense_max_aspect"),
        only={"fine_route": _OFF, "dense_max_patches": (0, None)},
    ),
    "Ovis2ImageProcessor": ProcessorType(
        _OPENAI | {"size": _square(384), **_TILED, "use_covering_area_grid": True}, (*_TILED, "use_covering_area_grid")
    ),
    "PerceptionLMImageProcessor": ProcessorType(
        {
            "resample": 3,
            "image_mean": HALF,
            "image_std": HALF,
            "tile_size": 448,
            "max_num_tiles": 36,
            "vision_input_type": "thumb+tile",
            "size": _square(448),
        },
        ("tile_size", "max_num_tiles", "vision_input_type"),
    ),
    "Llama4ImageProcessor": ProcessorType(
        {
            "resample": 2,
            "image_mean": HALF,
            "image_std": HALF,
            "size": _square(336),
            "max_patches": 16,
            "resize_to_max_canvas": False,
        },
        ("max_patches", "resize_to_max_canvas"),
    ),
    "MllamaImageProcessor": ProcessorType(
        {
            "resample": 2,
            "image_mean": HALF,
            "image_std": HALF,
            "size": _square(224),
            "do_pad": True,
            "max_image_tiles": 4,
        },
        ("max_image_tiles",),
        only={"do_pad": (True,)},
    ),
    "Phi4MultimodalImageProcessor": ProcessorType(
        {
            "resample": 3,
            "image_mean": HALF,
            "image_std": HALF,
            "size": _square(448),
            "patch_size": 14,
            "dynamic_hd": 36,
        },
        ("patch_size", "dynamic_hd"),
    ),
    "Vila": ProcessorType(  # likewise; SigLIP's settings, and those of tiles
        {"resample": 3, "image_mean": HALF, "image_std": HALF, "size": _square(384)},
        ("min_tiles", "max_tiles"),
        only={"resample": (3,)},
    ),
    "Eagle2": ProcessorType(  # code in the checkpoint
        {
            "resample": 3,
            "image_mean": HALF,
            "image_std": HALF,
            "size": _square(448),
            "min_dynamic_tiles": 1,
            "max_dynamic_tiles": 12,
            "use_thumbnail": True,
        },
        ("min_dynamic_tiles", "max_dynamic_tiles", "use_thumbnail", *_CROPS),
        inert=("do_pad", "tokens_per_tile"),
        only={"pad_during_tiling": _OFF},
    ),
    "Qwen2VLImageProcessor": _grid(
        14, 2, (56 * 56, 28 * 28 * 1280), edges=(*_EDGES, frozenset({"shortest_edge"}), frozenset({"longest_edge"}))
    ),
    "Glm4vImageProcessor": _grid(14, 2, (112 * 112, 28 * 28 * 15000), more=()),
    "Glm46VImageProcessor": _grid(14, 2, (112 * 112, 28 * 28 * 15000), more=()),
    "GlmgaImageProcessor": _grid(14, 2, (112 * 112, 28 * 28 * 15000), more=("patch_expand_factor",)),
    "Cosmos3EdgeImageProcessor": _grid(16, 1, (256 * 256, 4096 * 4096), more=(), image_mean=HALF, image_std=HALF),
    "PaddleOCRVLImageProcessor": _grid(14, 1, (384 * 384, 1536 * 1536)),
    "HunYuanVLImageProcessor": _grid(16, 1, (512 * 512, 2048 * 2048), only={"spatial_patch_size": (1,)}),
    "VideoLlama3ImageProcessor": _grid(14, 1, (56 * 56, 28 * 28 * 1280), image_mean=HALF, image_std=HALF, merge_size=1),
    "PixtralImageProcessor": ProcessorType(
        _OPENAI | {"size": {"longest_edge": 1024}, "patch_size": _square(16)},
        reads=("patch_size",),
        inert=("do_pad",),
        sizes=(frozenset({"longest_edge"}), frozenset({"height", "width"})),
    ),
    "MuseGlimmerImageProcessor": ProcessorType(
        {
            "resample": 1,
            "image_mean": HALF,
            "image_std": HALF,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "max_image_tokens": 4096,
        },
        reads=("patch_size", "temporal_patch_size", "merge_size", "max_image_tokens"),
        sizes=(),
    ),
    "Gemma4ImageProcessor": _BUDGET,
    "Gemma4UnifiedImageProcessor": _BUDGET,
    "Kosmos2_5ImageProcessor": ProcessorType(
        {"patch_size": _square(16), "max_patches": 4096, "do_normalize": True},
        reads=("patch_size", "max_patches"),
        inert=("do_rescale", "rescale_factor", "resample", "image_mean", "image_std", "size"),
        only={
            "do_normalize": (True,),
            "do_resize": (True, False, None),
        },  # transformers fails without one, and has no other
        sizes=(),
    ),
}


def class_name(settings: Mapping[str, Any], otherwise: str) -> str:
    """The class of transformers that ``settings`` name, without what says which library it computes with; or ``otherwise``."""
    named = settings.get("image_processor_type") or settings.get("feature_extractor_type") or otherwise
    name = str(named).replace("FeatureExtractor", "ImageProcessor").replace("Qwen2_5_VL", "Qwen2VL")
    for ending in ("Fast", "Pil"):
        name = name.removesuffix(ending)
    return name
