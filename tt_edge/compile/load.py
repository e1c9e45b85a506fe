"""Loading a Hugging Face checkpoint, from a local folder or by hub id."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tt_edge.config import Precision
from tt_edge.errors import InvalidInputError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TORCH_DTYPES = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16, Precision.FP32: torch.float32}


def load_model(source: str | os.PathLike[str], precision: Precision) -> PreTrainedModel:
    """Load a causal language model in ``precision``, in evaluation mode, on the CPU.

    ``source`` is a checkpoint folder (``config.json`` and safetensors, sharded or not) or a hub id such as
    ``Qwen/Qwen2.5-0.5B-Instruct``. Raises ``InvalidInputError`` for a source that is not there or is damaged and
    ``UnsupportedModelError`` for one that is not a causal language model of transformers.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    name = os.fspath(source)
    folder = Path(name)
    if folder.exists():
        _check_folder(folder)
    elif looks_like_path(name):
        raise InvalidInputError(
            f"checkpoint {name} does not exist; give a folder with config.json or a hub id like org/name"
        )
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(name)
        if type(config) not in AutoModelForCausalLM._model_mapping:
            raise UnsupportedModelError(
                f"model type {config.model_type!r} is not a causal language model in transformers; "
                "tt-edge compiles decoder-only language models"
            )
        # The default attention does not matter: export routes it through its own operator.
        model = AutoModelForCausalLM.from_pretrained(name, config=config, dtype=TORCH_DTYPES[precision])
    except UnsupportedModelError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInputError(f"checkpoint {name} does not load: {_first_line(error)}") from error
    except Exception as error:
        if type(error).__module__.startswith(("safetensors", "huggingface_hub")):
            raise InvalidInputError(f"checkpoint {name} does not load: {_first_line(error)}") from error
        raise
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    return model.eval().requires_grad_(False)


def looks_like_path(name: str) -> bool:
    """Whether ``name`` can only be meant as a path: hub ids have at most one slash and no leading dot or slash."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/") or "\\" in name


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    if not folder.is_dir():
        raise InvalidInputError(f"checkpoint {folder} is a file; give the folder that holds config.json")
    if not config.is_file():
        hint = "it is a tt-edge bundle already" if (folder / "manifest.json").is_file() else "it has no config.json"
        raise InvalidInputError(f"checkpoint {folder} is not a Hugging Face folder: {hint}")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{config} is not valid JSON ({error}); download the checkpoint again") from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
