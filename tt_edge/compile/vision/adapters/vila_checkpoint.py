"""Checkpoints of VILA and NVILA: a folder each for the language model, the tower and the projector. Imports no torch by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tt_edge.compile.checkpoint import json_files
from tt_edge.compile.checkpoint.checkpoint import Checkpoint
from tt_edge.config import Precision
from tt_edge.errors import InvalidInputError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from tt_edge.compile.vision.adapters.vila import VilaConfig

#: The second is that of checkpoints with code for transformers.
MODEL_TYPES = ("llava_llama", "vila")
#: Folders of such a checkpoint, and what the names of their tensors begin with in ``VilaForConditionalGeneration``.
_PARTS = {"llm": "language_model.", "vision_tower": "vision_tower.", "mm_projector": "mm_projector."}
#: Special tokens in the order in which NVIDIA's code adds them to the tokenizer, where it lacks them.
_MARK, _IMAGE, _VIDEO = "<vila/sentinel>", "<image>", "<vila/video>"
_OFF = (None, False, 0)
_MOST_TILES = 64
#: The only values that are followed of settings in ``config.json``.
_ONLY: dict[str, tuple[Any, ...]] = {
    "s2": _OFF,
    "dynamic_s2": _OFF,
    "ps3": _OFF,
    "num_time_tokens": _OFF,
    "mm_use_im_start_end": _OFF,
    "mm_use_im_patch_token": _OFF,
    "mm_vision_select_feature": ("cls_patch",),  # SigLIP has no token of the class, which "patch" would leave out
    "image_aspect_ratio": (None, "resize", "dynamic"),
    "chat_template": (None, "qwen2"),
}
#: What ``chat_template`` ``qwen2`` means.
_QWEN2 = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{% if message.content is not none %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
#: Put before a chat template, which takes texts: the parts of messages become a text, without spaces around it.
_AS_TEXT = (
    "{%- set ns = namespace(messages=[], text='') -%}{%- for message in messages -%}"
    "{%- if message.content is none -%}{%- set ns.messages = ns.messages + [message] -%}{%- else -%}"
    "{%- if message.content is string -%}{%- set ns.text = message.content -%}{%- else -%}{%- set ns.text = '' -%}"
    "{%- for part in message.content -%}"
    "{%- set ns.text = ns.text + ('<image>' if part.type == 'image' else '<vila/video>' if part.type == 'video' else part.text) -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- set ns.text = ns.text | trim -%}{REFUSAL}"
    "{%- set ns.messages = ns.messages + [dict(message, content=ns.text)] -%}{%- endif -%}{%- endfor -%}"
    "{%- set messages = ns.messages -%}"
)
#: With tiles, NVIDIA's code writes a line break behind an image and then strips the message, which the number of tiles decides.
_REFUSAL = "{%- if ns.text.endswith('<image>') -%}{{ raise_exception('an image ends a message; put text behind it') }}{%- endif -%}"


class VilaCheckpoint(Checkpoint, model_types=MODEL_TYPES):
    """As ``Checkpoint``, of the folders ``llm``, ``vision_tower`` and ``mm_projector``."""

    def _check_parts(self) -> None:
        for name in _PARTS:
            if not (self.folder / name / "config.json").is_file():
                raise InvalidInputError(
                    f"checkpoint {self.source} is VILA's and has no {name}/config.json; download it again"
                )
            json_files.check_files(self.folder / name)

    def part(self, name: str) -> Checkpoint:
        """One of its folders."""
        return Checkpoint(f"{self.source}/{name}", self.folder / name)

    @cached_property
    def config(self) -> VilaConfig:  # type: ignore[override]
        """Raises ``UnsupportedModelError``, naming it, for a setting that is not followed."""
        from tt_edge.compile.checkpoint.model import explained

        for name, values in _ONLY.items():
            value = self.settings.get(name, values[0])
            if not any(value == each and type(value) is type(each) for each in values):
                raise UnsupportedModelError(
                    f"VILA with {name} {value!r:.80} is not supported (only {', '.join(map(repr, values))}); give another "
                    "checkpoint"
                )
        with explained(self):
            return self._config()

    def _config(self) -> VilaConfig:
        from transformers import AutoConfig, SiglipVisionConfig

        from tt_edge.compile.checkpoint.model import check_known
        from tt_edge.compile.checkpoint.vision_settings import check_vision_sizes
        from tt_edge.compile.vision.adapters.vila import VilaConfig

        tower, llm = dict(self.part("vision_tower").settings), self.part("llm")
        if (kind := tower.pop("model_type", None)) != "siglip_vision_model":
            raise UnsupportedModelError(f"VILA with the vision tower {kind!r:.80} is not supported; SigLIP's is")
        check_vision_sizes(self.source, {"vision_config": tower})
        check_known(llm)
        text = AutoConfig.from_pretrained(llm.folder, trust_remote_code=False)
        if self.settings.get("model_type") == "llava_llama":  # NVIDIA's code gives the model its tokenizer's vocabulary
            text.vocab_size = len(self.tokenizer)
        before, behind = self._around()
        config = VilaConfig(
            # The pooling head reduces an image to one vector, which the language model does not use.
            vision_config=SiglipVisionConfig(**{**tower, "vision_use_head": False}),
            text_config=text,
            projector=str(self.part("mm_projector").settings.get("mm_projector_type")),
            select_layer=self._select_layer(int(tower.get("num_hidden_layers", 12))),
            image_token_id=self.tokenizer.convert_tokens_to_ids(_IMAGE),
            video_token_id=self.tokenizer.convert_tokens_to_ids(_VIDEO),
            max_tiles=self._tiles["max_tiles"] if self._tiles else 1,
            before=before,
            behind=behind,
            architectures=["VilaForConditionalGeneration"],
        )
        config._attn_implementation = None
        return config

    def _select_layer(self, layers: int) -> int:
        found = self.settings.get("mm_vision_select_layer")
        found = -2 if found is None else found
        if type(found) is not int or not -layers - 1 <= found <= layers:
            raise InvalidInputError(
                f"checkpoint {self.source}: mm_vision_select_layer of config.json is {found!r:.80}, and the tower has {layers} "
                "layers; correct it"
            )
        return found

    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids of the tokens around an image's features, as NVIDIA's ``BasicImageEncoder`` makes them."""
        kind, texts = self._encoder("image_encoder", "BasicImageEncoder")
        if kind.rpartition(".")[2] != "BasicImageEncoder":
            raise UnsupportedModelError(
                f"VILA with the image_encoder {kind!r:.80} is not supported; BasicImageEncoder is"
            )
        before, behind = (() if text is None else tuple(self.tokenizer(text).input_ids) for text in texts)
        return before, behind

    def _encoder(self, name: str, default: str) -> tuple[str, tuple[Any, Any]]:
        """The class of an encoder in ``config.json``, and the texts before and behind the features of each tile."""
        encoder = self.settings.get(name) or {}
        encoder = json.loads(encoder) if isinstance(encoder, str) else encoder
        texts = encoder.get("start_tokens"), encoder.get("end_tokens", "\n")
        return str(encoder.get("_target_", default)), texts

    def _videos(self) -> dict[str, Any]:
        """The settings of videos, whose frames NVIDIA's ``BasicVideoEncoder`` encodes as images; the class says what differs."""
        kind, texts = self._encoder("video_encoder", "BasicVideoEncoder")
        tiles, found = self.settings.get("video_max_tiles", 1), "Vila"
        if kind.rpartition(".")[2] != "BasicVideoEncoder":
            found = f"VILA's with the video_encoder {kind:.60}"
        elif texts != self._encoder("image_encoder", "BasicImageEncoder")[1]:
            found = f"VILA's with {texts[0]!r:.20} and {texts[1]!r:.20} around frames, which images have not"
        elif self._tiles and tiles != 1:
            found = f"VILA's with video_max_tiles {tiles!r:.20}"
        return {"video_processor_type": found, "num_frames": self.settings.get("num_video_frames", 8)}

    @property
    def quantization(self) -> None:  # type: ignore[override]
        """``None``. Raises ``UnsupportedModelError`` for a quantized part."""
        from tt_edge.compile.checkpoint.prequantized import detect

        for name in _PARTS:
            if (found := detect(self.folder / name)) is not None:
                raise UnsupportedModelError(
                    f"checkpoint {self.source} is VILA's, and its {name} is quantized ({found}), which is not read; give the "
                    "one in full precision, with --quant"
                )

    @cached_property
    def tokenizer(self) -> Any:
        """The language model's, with the tokens of images, and with a chat template that takes parts of messages."""
        from tt_edge.compile.checkpoint.sentencepiece_tokenizers import converted, is_converted_here
        from tt_edge.compile.checkpoint.tokenizer_files import load_tokenizer

        found = load_tokenizer(self.part("llm"))
        if is_converted_here(found):
            found = converted(found, self.source)
        found.add_tokens([_MARK, _IMAGE, _VIDEO], special_tokens=True)
        template = _QWEN2 if self.settings.get("chat_template") == "qwen2" else found.chat_template
        if isinstance(template, str):
            refusal = _REFUSAL if self._tiles else ""
            found.chat_template = _AS_TEXT.replace("{REFUSAL}", refusal) + template
        return found

    @cached_property
    def _tiles(self) -> dict[str, Any]:
        """The settings of tiles, if images have some."""
        if self.settings.get("image_aspect_ratio") != "dynamic":
            return {}
        found = {name: self.settings.get(name, value) for name, value in (("min_tiles", 1), ("max_tiles", 12))}
        for name, value in found.items():
            if type(value) is not int or not 1 <= value <= _MOST_TILES:
                raise InvalidInputError(
                    f"checkpoint {self.source}: {name} of config.json is {value!r:.80}, not an integer from 1 to {_MOST_TILES}; "
                    "correct it"
                )
        return found

    def tokenizer_files(self) -> Iterator[tuple[str, bytes]]:
        from tt_edge.compile.checkpoint.tokenizer_files import files_of

        return files_of(self.tokenizer, self.source)

    def processor_files(self) -> Iterator[tuple[str, bytes]]:
        """The tower's ``preprocessor_config.json``, with the settings of tiles that ``config.json`` has."""
        own = self.part("vision_tower").read_json("preprocessor_config.json")
        if own:
            settings = {**own, **self._tiles, "image_processor_type": "Vila"}
            yield "preprocessor_config.json", (json.dumps(settings, indent=2) + "\n").encode()
            yield "video_preprocessor_config.json", (json.dumps(self._videos(), indent=2) + "\n").encode()

    def fetch_weights(self) -> Path:
        from tt_edge.compile.checkpoint import hub

        if self.is_hub_id:
            hub.fetch_matching(self.source, self.folder, *(f"{name}/*.safetensors" for name in _PARTS))
        return self.folder

    def load(self, precision: Precision) -> PreTrainedModel:
        from tt_edge.compile.checkpoint.model import TORCH_DTYPES, checked, explained
        from tt_edge.compile.vision.adapters.vila import VilaForConditionalGeneration

        config = self.config
        assert self.quantization is None
        with explained(self):
            self.fetch_weights()
            model, found = VilaForConditionalGeneration.from_pretrained(
                None,
                config=config,
                dtype=TORCH_DTYPES[precision],
                state_dict=self._weights(config.text_config.vocab_size),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        model.generation_config = self._generation_config()
        return checked(self, model, found)

    def _weights(self, vocabulary: int) -> dict[str, Tensor]:
        """All tensors, with ``vocabulary`` embeddings and logits."""
        from tt_edge.compile.checkpoint.prequantized.shards import Shards, check_full_precision

        found: dict[str, Tensor] = {}
        for name, prefix in _PARTS.items():
            folder = self.folder / name
            if not any(folder.glob("*.safetensors")):
                raise InvalidInputError(
                    f"checkpoint {self.source} has no safetensors in {name}; download it again, or save it as safetensors"
                )
            check_full_precision(folder)
            shards = Shards(folder)
            for key in shards:
                own = key.removeprefix("vision_model.") if name == "vision_tower" else key
                if not (name == "vision_tower" and own.startswith("head.")):
                    found[prefix + own] = shards[key]
        for key in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
            if key in found:
                found[key] = _with_rows(found[key], vocabulary)
        return found

    def _generation_config(self) -> Any:
        """That of NVIDIA's code: greedy, until the tokenizer's end or what the chat template writes behind an answer."""
        from transformers import GenerationConfig

        tokenizer = self.tokenizer
        ends = [tokenizer.eos_token_id]
        if tokenizer.chat_template is not None:
            chat = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _MARK}]
            _, mark, behind = tokenizer.apply_chat_template(chat, tokenize=False).rpartition(_MARK)
            ends += tokenizer(behind, add_special_tokens=False).input_ids[:1] if mark else []
        ends = list(dict.fromkeys(each for each in ends if each is not None))
        return GenerationConfig(
            eos_token_id=ends or None, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
        )


def _with_rows(weight: Tensor, rows: int) -> Tensor:
    """``[rows, hidden]``: without those behind, or with their mean in place of what is missing, which is never the likeliest."""
    import torch

    if len(weight) >= rows:
        return weight[:rows]
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - len(weight), -1)])
