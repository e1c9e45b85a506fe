"""Loading a Hugging Face checkpoint, from a local folder or by hub id."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tt_edge.compile.checkpoint.load_quantized import load_quantized
from tt_edge.compile.checkpoint.prequantized import detect
from tt_edge.compile.vision.eagle2 import EAGLE_TYPES, Eagle2Config, load_eagle2
from tt_edge.compile.vision.families import FAMILIES
from tt_edge.config import Precision
from tt_edge.errors import InvalidInputError, TTEdgeError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TORCH_DTYPES = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16, Precision.FP32: torch.float32}


def load_model(source: str | os.PathLike[str], precision: Precision) -> PreTrainedModel:
    """Load a causal language model, or a vision-language model, in ``precision``, in evaluation mode, on the CPU.

    The linear layers of a quantized checkpoint stay quantized (``load_quantized``).

    ``source`` is a checkpoint folder (``config.json`` and safetensors, sharded or not) or a hub id such as
    ``Qwen/Qwen2.5-0.5B-Instruct``. Raises ``InvalidInputError`` for a source that is not there or is damaged and
    ``UnsupportedModelError`` for one that is not a causal language model of transformers.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
    from transformers.utils import logging as transformers_logging

    name = check_source(source)
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # what it would warn of is an error here
    try:
        raw, _ = PreTrainedConfig.get_config_dict(name)
        if isinstance(raw, dict) and raw.get("model_type") in (*EAGLE_TYPES, Eagle2Config.model_type):
            model, found = load_eagle2(_local_folder(name), raw, TORCH_DTYPES[precision])
            return _checked(name, model, found)
        config = AutoConfig.from_pretrained(name)
        config._attn_implementation = None  # of all parts: one that asks for flash-attn loads where it is not installed
        mappings = [AutoModelForCausalLM, *_vision_models(config)]
        make = next((auto for auto in mappings if type(config) in auto._model_mapping), None)
        if make is None:
            raise UnsupportedModelError(
                f"model type {config.model_type!r} is neither a causal language model in transformers nor one of the "
                f"vision-language models {', '.join(FAMILIES)}; tt-edge compiles these"
            )
        if detect(name if Path(name).is_dir() else config) is not None:
            return load_quantized(_local_folder(name), config, TORCH_DTYPES[precision])
        # The default attention does not matter: export routes it through its own operator.
        model, found = make.from_pretrained(
            name, config=config, dtype=TORCH_DTYPES[precision], output_loading_info=True, ignore_mismatched_sizes=True
        )
        return _checked(name, model, found)
    except TTEdgeError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _does_not_load(name, error) from error
    except Exception as error:
        if type(error).__module__.startswith(("safetensors", "huggingface_hub")):
            raise _does_not_load(name, error) from error
        raise
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _checked(name: str, model: PreTrainedModel, found: Mapping[str, Any]) -> PreTrainedModel:
    """``model`` in evaluation mode. Raises ``InvalidInputError`` for weights that were not there, or of other shapes."""
    # transformers would go on with random numbers in place of these.
    if missing := sorted(found["missing_keys"]):
        raise _does_not_load(name, f"weight {missing[0]} is missing ({len(missing)} in all)")
    if mismatched := sorted(found["mismatched_keys"]):
        key, stored, expected = mismatched[0]
        raise _does_not_load(name, f"weight {key} is {list(stored)}, and config.json makes it {list(expected)}")
    return model.eval().requires_grad_(False)


def _vision_models(config: Any) -> list[Any]:
    """transformers' mapping of vision-language models, for one of a type that is compiled."""
    from transformers import AutoModelForImageTextToText

    return [AutoModelForImageTextToText] if config.model_type in FAMILIES else []


def _local_folder(name: str) -> str:
    """``name``, or for a hub id the folder of its snapshot: downloaded, or found in the cache."""
    if Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))


def check_source(source: str | os.PathLike[str]) -> str:
    """``source`` as transformers takes it. Raises ``InvalidInputError`` for a folder that is not there or is no checkpoint."""
    name = os.fspath(source)
    folder = Path(name)
    if folder.exists():
        _check_folder(folder)
    elif looks_like_path(name):
        raise InvalidInputError(
            f"checkpoint {name} does not exist; give a folder with config.json or a hub id like org/name"
        )
    return name


def looks_like_path(name: str) -> bool:
    """Whether ``name`` can only be meant as a path: hub ids have at most one slash and no leading dot or slash."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/") or "\\" in name


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    if not folder.is_dir():
        raise InvalidInputError(f"checkpoint {folder} is a file; give the folder that holds config.json")
    if (folder / "manifest.json").is_file():
        raise InvalidInputError(
            f"checkpoint {folder} is a tt-edge bundle already; give the folder it was compiled from"
        )
    if not config.is_file():
        raise InvalidInputError(f"checkpoint {folder} has no config.json; give the folder of a Hugging Face model")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{config} is not valid JSON ({error}); download the checkpoint again") from error


def _does_not_load(name: str, reason: BaseException | str) -> InvalidInputError:
    why = reason if isinstance(reason, str) else _first_line(reason)
    return InvalidInputError(f"checkpoint {name} does not load: {why.rstrip('.')}; download it again")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
