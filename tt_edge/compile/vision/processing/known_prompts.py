"""How images stand in the prompts of families whose processors write what cannot be found, or need not be asked. Torch-free.

What is written here is compared with each processor by the tests. For every other checkpoint, ``OwnProcessor.prompt`` runs its
processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tt_edge.runtime.multimodal.images.placeholders import Placeholders, TileText
from tt_edge.runtime.multimodal.videos.frame_text import FrameText


@dataclass(frozen=True)
class KnownPrompt:
    """``processor`` is the class that is meant where the checkpoint names none, and ``settings`` are those of ``ImagePrompt``.

    ``video`` is that of the video processor. ``frames``: what a prompt says around the frames of a video, with ``{image}``,
    ``{start}`` and ``{end}`` for the tokens of an image and those around them. ``video_word``: what a prompt has for a video where
    the configuration has no token for it, and the tokenizer none of that name.

    ``around`` are the tokens before and after an image's tokens (or the names of the settings in ``tokenizer_config.json``
    that hold them, with their defaults). ``numbered``, ``leading``, ``tiles`` and ``alone`` are those of ``Placeholders``.
    ``prompts_have_start``: prompts have the token before an image's tokens in the place of the image, and ``apart`` is put before
    and after. ``one_block``: all tokens of a prompt see each other, and its text begins with the token that begins sequences and
    ends with a newline. ``single``: an image is one token, and a prompt has the token that begins sequences before its text.
    """

    processor: str
    video: str | None = None
    frames: FrameText | None = None
    video_word: str = ""
    around: tuple[str, str] = ("", "")
    around_settings: tuple[str, str] | None = None
    numbered: bool = False
    leading: bool = False
    prompts_have_start: bool = False
    apart: str = ""
    one_block: bool = False
    tiles: TileText | None = None
    single: bool = False
    alone: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def placeholders(self, image: str, video: str | None, tokenizer_config: dict[str, Any]) -> Placeholders:
        """``image`` and ``video`` are the tokens that stand for them in the tokenizer."""
        start, end = self.around
        extra = tokenizer_config.get("extra_special_tokens")
        named = tokenizer_config | (extra if isinstance(extra, dict) else {})
        if self.around_settings is not None:
            start, end = (
                _content(named.get(key)) or default
                for key, default in zip(self.around_settings, self.around, strict=True)
            )
        return Placeholders(
            image,
            (video or _content(named.get("video_token")) or self.video_word or None) if self.video else None,
            self.apart + start,
            end + self.apart,
            numbered=self.numbered,
            leading=self.leading,
            written=start if self.prompts_have_start else None,
            before_text=_content(tokenizer_config.get("bos_token")) if self.one_block else None,
            tiles=self.tiles,
            single=self.single,
            alone=self.alone,
            begins=_content(tokenizer_config.get("bos_token")) or None if self.single else None,
            frames=None if self.frames is None else _filled(self.frames, image, start, end),
        )


def _filled(frames: FrameText, image: str, start: str, end: str) -> FrameText:
    """``frames`` with the tokens that it names."""
    texts = asdict(frames)
    for name, word in (("{image}", image), ("{start}", start), ("{end}", end)):
        texts = {part: text.replace(name, word) for part, text in texts.items()}
    return FrameText(**texts)


def _content(token: Any) -> str:
    """The text of a special token, which settings have as it is or in an object."""
    return str(token.get("content", "") if isinstance(token, dict) else token or "")


_QWEN = "Qwen2VLImageProcessor"
_QWEN_VL = KnownPrompt(_QWEN, "Qwen2VLVideoProcessor")
_AROUND, _WHOLE = "<fake_token_around_image>", "<fake_token_around_image><global-img>"
_EACH = f"{_AROUND}<row_{{row}}_col_{{column}}>"
_ROWS = TileText(f"{_AROUND}<row_1_col_1>", _EACH, f"\n{_EACH}", f"\n\n{_WHOLE}", _AROUND)
_SERIES = "You are provided the following series of {count} frames from a {duration} [H:MM:SS] video.\n"
_FROM = "\nFrame from {clock}:{start}"
_IMG_TAGS, _IMG_SETTINGS = ("<img>", "</img>"), ("start_image_token", "end_image_token")

#: By ``model_type``.
KNOWN_PROMPTS: dict[str, KnownPrompt] = {
    "qwen2_vl": _QWEN_VL,
    "qwen2_5_vl": _QWEN_VL,
    # The tokens around are written around each frame of a video; around an image they are in the prompt already.
    "qwen3_vl": KnownPrompt(
        _QWEN,
        "Qwen3VLVideoProcessor",
        FrameText("<{seconds} seconds>{start}", "{end}<{seconds} seconds>{start}", "{end}"),
        around=("<|vision_start|>", "<|vision_end|>"),
    ),
    "llava": KnownPrompt("LlavaImageProcessor"),
    "vipllava": KnownPrompt("CLIPImageProcessor"),
    "llava_next": KnownPrompt("LlavaNextImageProcessor"),
    "llava_onevision": KnownPrompt(
        "LlavaOnevisionImageProcessor", "LlavaOnevisionVideoProcessor", video_word="<video>"
    ),
    "idefics3": KnownPrompt("Idefics3ImageProcessor", around=(_WHOLE, _AROUND), tiles=_ROWS),
    "smolvlm": KnownPrompt(
        "SmolVLMImageProcessor",
        "SmolVLMVideoProcessor",
        FrameText(f"{_SERIES}{_FROM}", f"{{end}}{_FROM}", "{end}\n\n", "{image}"),
        "<video>",
        around=(_WHOLE, _AROUND),
        tiles=_ROWS,
    ),
    "gemma3": KnownPrompt(
        "Gemma3ImageProcessor",
        around=("<start_of_image>", "<end_of_image>"),
        around_settings=("boi_token", "eoi_token"),
        prompts_have_start=True,
        apart="\n\n",
    ),
    "paligemma": KnownPrompt("SiglipImageProcessor", one_block=True),
    "blip-2": KnownPrompt("BlipImageProcessor", leading=True),
    "internvl": KnownPrompt(
        "GotOcr2ImageProcessor",
        "InternVLVideoProcessor",
        FrameText("Frame{number}: {start}", "{end}\nFrame{number}: {start}", "{end}", "{image}"),
        "<video>",
        around=_IMG_TAGS,
        around_settings=_IMG_SETTINGS,
        settings={"crop_to_patches": True},  # which its processor asks for
    ),
    "mllama": KnownPrompt("MllamaImageProcessor", single=True),
    "vila": KnownPrompt("Vila", "Vila", around=("", "\n"), tiles=TileText("", "\n", "\n", "\n", "\n"), alone=True),
    "eagle2": KnownPrompt("Eagle2", around=_IMG_TAGS, around_settings=_IMG_SETTINGS, numbered=True),
}
