"""Reading the JSON files of a checkpoint, which are untrusted: one place, with one limit on nesting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tt_edge import strict_json
from tt_edge.errors import InvalidInputError

#: What tt-edge or transformers parses with Python's reader; ``tokenizer.json`` has a reader of its own, with its own limit.
_PARSED = (
    "added_tokens.json",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "quantize_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is absent. Raises ``InvalidInputError`` for anything else in it."""
    try:
        return strict_json.read_object(file)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are such
        raise InvalidInputError(f"{file} is not valid JSON ({error}); download the checkpoint again") from error


def check_files(folder: Path) -> None:
    """Read every JSON file of a checkpoint that will be parsed, before transformers does so without limits.

    Raises ``InvalidInputError`` for one that is no JSON object, or is nested too deeply.
    """
    for file in (*(folder / name for name in _PARSED), *sorted(folder.glob("*.index.json"))):
        read_object(file)
