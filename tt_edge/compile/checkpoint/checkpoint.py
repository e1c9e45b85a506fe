"""A Hugging Face checkpoint: where its files are, and what they say."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tt_edge.compile.checkpoint import hub, json_files
from tt_edge.config import Precision
from tt_edge.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from tt_edge.compile.checkpoint.prequantized import QuantizedFormat

#: The folder of Phi-4-multimodal's adapter without which it answers badly to images.
_IMAGE_ADAPTER = "vision-lora"


class Checkpoint:
    """A checkpoint folder or the snapshot of a hub id, opened once. Values from its files are read once, on first access.

    ``source`` is what the user gave. ``folder`` is the local folder; of a hub id it holds everything but the weights until
    ``fetch_weights``. Nothing here runs code of the checkpoint. A subclass with ``model_types`` is what checkpoints of these, in
    a layout of their own, are opened as.
    """

    _KINDS: ClassVar[dict[str, type[Checkpoint]]] = {}

    def __init_subclass__(cls, model_types: tuple[str, ...] = ()) -> None:
        Checkpoint._KINDS |= dict.fromkeys(model_types, cls)

    def __init__(self, source: str, folder: Path) -> None:
        self.source, self.folder = source, folder

    @classmethod
    def open(cls, source: str | os.PathLike[str] | Checkpoint) -> Checkpoint:
        """Open a folder with ``config.json``, or a hub id such as ``Qwen/Qwen2.5-0.5B-Instruct``.

        Raises ``InvalidInputError`` for a folder that is not there or is no checkpoint, and for an id that cannot be fetched.
        """
        return cls._open(source, needs_config=True)

    @classmethod
    def open_tokenizer(cls, source: str | os.PathLike[str] | Checkpoint) -> Checkpoint:
        """As ``open``, for a checkpoint of which only the tokenizer is used: it may lack ``config.json``."""
        return cls._open(source, needs_config=False)

    @classmethod
    def _open(cls, source: str | os.PathLike[str] | Checkpoint, needs_config: bool) -> Checkpoint:
        if isinstance(source, Checkpoint):
            return source
        name = os.fspath(source)
        folder = Path(name)
        if not folder.exists():
            if looks_like_path(name):
                raise InvalidInputError(
                    f"checkpoint {name} does not exist; give a folder with config.json or a hub id like org/name"
                )
            folder = hub.fetch_small_files(name)
        checkpoint = cls(name, folder)
        checkpoint._check_folder(needs_config)
        model_type = checkpoint.settings.get("model_type")
        if not isinstance(model_type, str | None):
            raise InvalidInputError(
                f"checkpoint {name}: model_type of config.json is {model_type!r:.80}, not a name; correct it, or download the "
                "checkpoint again"
            )
        kind = cls._KINDS.get(str(model_type))
        if kind is None:
            return checkpoint
        checkpoint = kind(name, folder)
        checkpoint._check_parts()
        return checkpoint

    def _check_parts(self) -> None:
        """Raise ``InvalidInputError`` for folders within ``folder`` that are missing or damaged; most checkpoints have none."""

    def _check_folder(self, needs_config: bool) -> None:
        if not self.folder.is_dir():
            raise InvalidInputError(f"checkpoint {self.source} is a file; give the folder that holds config.json")
        if self.has("manifest.json"):
            raise InvalidInputError(
                f"checkpoint {self.source} is a tt-edge bundle already; give the folder it was compiled from"
            )
        if self.has("adapter_config.json") and needs_config:
            base = self.read_json("adapter_config.json").get("base_model_name_or_path") or "its base model"
            raise InvalidInputError(
                f"checkpoint {self.source} holds a PEFT adapter of {base}; merge it with merge_and_unload(), save the result, and "
                "give that folder"
            )
        if self.has(f"{_IMAGE_ADAPTER}/adapter_config.json") and needs_config:
            raise InvalidInputError(
                f"checkpoint {self.source} has its adapter for images apart, in {_IMAGE_ADAPTER}, which is not read; merge it with "
                f"PEFT (PeftModel.from_pretrained(model, folder, subfolder='{_IMAGE_ADAPTER}').merge_and_unload()), save the "
                "result and the processor, and give that folder"
            )
        json_files.check_files(self.folder)  # a damaged file is refused now
        if not self.has("config.json") and needs_config:
            raise InvalidInputError(f"checkpoint {self.source} has no config.json{self._instead()}")

    def _instead(self) -> str:
        """What a folder without ``config.json`` is, and what to give instead."""
        if any(self.folder.glob("*.gguf")):
            return (
                " but GGUF files, which are not read; give the checkpoint that they were made from, or convert one with "
                "transformers: from_pretrained(folder, gguf_file=NAME).save_pretrained(NEW)"
            )
        return "; give the folder of a Hugging Face model"

    def __fspath__(self) -> str:
        """The local folder."""
        return str(self.folder)

    @property
    def is_hub_id(self) -> bool:
        """Whether ``source`` is a hub id, so that ``folder`` is a snapshot in the cache."""
        return not Path(self.source).exists()

    @cached_property
    def name(self) -> str:
        """The last part of ``source``, which names the model in reports."""
        name = self.source.rpartition("/")[2] if self.is_hub_id else self.folder.resolve().name
        return name or "model"

    def has(self, file: str) -> bool:
        """Whether the checkpoint has a file of that name."""
        return (self.folder / file).is_file()

    def read_bytes(self, file: str) -> bytes:
        """The content of one of its small files."""
        return (self.folder / file).read_bytes()

    def read_json(self, file: str) -> Mapping[str, Any]:
        """A JSON object; empty where the file is absent. Raises ``InvalidInputError`` for anything else in it."""
        return json_files.read_object(self.folder / file)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The content of ``config.json``."""
        return self.read_json("config.json")

    @cached_property
    def generation_settings(self) -> Mapping[str, Any]:
        """The content of ``generation_config.json``; empty if the checkpoint has none."""
        return self.read_json("generation_config.json")

    @cached_property
    def config(self) -> PreTrainedConfig:
        """transformers' configuration object. Raises ``InvalidInputError`` if transformers cannot create it."""
        from tt_edge.compile.checkpoint.model import load_config

        return load_config(self)

    @cached_property
    def quantization(self) -> QuantizedFormat | None:
        """How its weights are quantized; ``None`` for full precision."""
        from tt_edge.compile.checkpoint.prequantized import detect

        return detect(self.folder)

    def check_not_quantized(self, quant: str) -> None:
        """Raise ``InvalidInputError`` if it is quantized: ``--quant`` ``quant`` would quantize it twice."""
        if (found := self.quantization) is not None:
            raise InvalidInputError(
                f"checkpoint {self.source} is quantized already, as {found}; omit --quant {quant}, or give the checkpoint that "
                "it was made from"
            )

    def fetch_weights(self) -> Path:
        """``folder``, with the weights of a hub id downloaded or found in the cache."""
        if self.is_hub_id:
            hub.fetch_weights(self.source, self.folder)
        return self.folder

    def load(self, precision: Precision) -> PreTrainedModel:
        """The model in ``precision``; see ``load_model``."""
        from tt_edge.compile.checkpoint.model import load_checkpoint

        return load_checkpoint(self, precision)

    def tokenizer_files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of each tokenizer file that a bundle takes; see ``checkpoint.tokenizer_files``."""
        from tt_edge.compile.checkpoint.tokenizer_files import tokenizer_files

        return tokenizer_files(self)

    def processor_files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of each file of image processor settings; a language model has none."""
        from tt_edge.compile.checkpoint.tokenizer_files import processor_files

        return processor_files(self)

    @cached_property
    def tokenizer(self) -> Any:
        """transformers' tokenizer. Raises ``InvalidInputError`` where there is none."""
        from tt_edge.compile.checkpoint.tokenizer_files import load_tokenizer

        return load_tokenizer(self)


def looks_like_path(name: str) -> bool:
    """Whether ``name`` can only be meant as a path: hub ids have at most one slash and no leading dot or slash."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/") or "\\" in name
