"""Taking the tokenizer, chat template and generation settings of a checkpoint along in the bundle."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tt_edge.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TEMPLATE, _OLD_TEMPLATE = "chat_template.jinja", "chat_template.json"
#: Files that the runtime reads, where the checkpoint has them.
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", _TEMPLATE)
#: What a vision-language model's preprocessing is made from.
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def tokenizer_files(source: str | os.PathLike[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each tokenizer file of a checkpoint folder or hub id.

    A checkpoint that has only a slow tokenizer (SentencePiece) is converted to ``tokenizer.json`` by transformers. One
    without any tokenizer yields nothing: its bundle runs on token ids alone.
    """
    with tempfile.TemporaryDirectory(prefix="tt-edge-tokenizer-") as scratch:
        folder = Path(source)
        if not (folder / "tokenizer.json").is_file():
            saved = _saved_by_transformers(os.fspath(source), Path(scratch))
            if saved is None:
                return
            folder = saved
        for name in _FILES:
            if (folder / name).is_file():
                yield name, (folder / name).read_bytes()


def processor_files(source: str | os.PathLike[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of a checkpoint's image processor settings, of which a language model has none.

    Older ones have the processor's chat template as ``chat_template.json``; it becomes ``chat_template.jinja``.
    """
    for name in _PROCESSOR_FILES:
        if (content := _content(source, name)) is not None:
            yield name, content
    old = _content(source, _OLD_TEMPLATE)
    if old is not None and _content(source, _TEMPLATE) is None:
        try:
            template = json.loads(old)["chat_template"]
            if not isinstance(template, str):
                raise TypeError(f"chat_template is a {type(template).__name__}")
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(
                f"{_OLD_TEMPLATE} of {source} holds no chat template ({error}); download the checkpoint again"
            ) from error
        yield _TEMPLATE, template.encode()


def _content(source: str | os.PathLike[str], name: str) -> bytes | None:
    """A file of a checkpoint, where it has one of that name."""
    from tt_edge.compile.checkpoint.load import check_source

    checked = check_source(source)
    file: Path | None = Path(checked) / name
    if not Path(checked).is_dir():
        file = _from_hub(checked, name)
    return file.read_bytes() if file is not None and file.is_file() else None


def _from_hub(source: str, name: str) -> Path | None:
    """A file of a hub repository, downloaded or found in the cache; ``None`` where it has no such, or nothing answers."""
    from transformers.utils import cached_file

    try:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    except OSError:
        return None  # loading the model says what is wrong
    return None if found is None else Path(found)


def _saved_by_transformers(source: str, scratch: Path) -> Path | None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, ImportError, KeyError, TypeError):
        return None
    if not getattr(tokenizer, "is_fast", False):
        raise InvalidInputError(
            f"the tokenizer of {source} has no tokenizer.json and cannot be converted to one; "
            "save it once with transformers' fast tokenizer and compile again"
        )
    tokenizer.save_pretrained(scratch)
    return scratch


def generation_settings(model: PreTrainedModel) -> bytes:
    """``generation_config.json``: the checkpoint's own, with the end-of-sequence ids that ``generate()`` would use."""
    settings: dict[str, Any] = model.generation_config.to_diff_dict()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(model.generation_config, name, None)
        if value is None:
            value = getattr(model.config, name, None)
        if value is not None:
            settings[name] = value
    return (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
