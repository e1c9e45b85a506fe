"""Detecting from a checkpoint's configuration whether and how it is quantized."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tt_edge.compile.checkpoint.json_files import read_object
from tt_edge.errors import InvalidInputError, UnsupportedModelError

Config = Mapping[str, Any]


@dataclass(frozen=True)
class QuantizedFormat:
    """The quantization that a configuration describes, of any method; ``read_quantized`` decides which ones it can read."""

    method: str
    """``quant_method`` of the configuration: ``awq``, ``gptq``, ``compressed-tensors``, ``modelopt`` or another one."""
    config: Config
    """The quantization settings, unchanged."""

    def __str__(self) -> str:
        about = self.config.get("quant_algo") or self.config.get("format")
        if (bits := self.config.get("bits")) is not None:
            about = f"{bits} bits, groups of {self.config.get('group_size')}"
        return f"{self.method} ({about})" if about else self.method

    @property
    def fp8_kv_cache(self) -> bool:
        """Whether the KV cache is FP8. Raises ``UnsupportedModelError`` for any other quantized KV cache."""
        scheme = self.config.get("kv_cache_quant_algo") or self.config.get("kv_cache_scheme")
        if not scheme or scheme == "NONE":
            return False
        fp8 = (
            scheme.get("num_bits") == 8 and scheme.get("type") == "float" and not scheme.get("dynamic")
            if isinstance(scheme, Mapping)
            else scheme == "FP8"
        )
        if not fp8:
            raise UnsupportedModelError(
                f"KV cache scheme {scheme} of the checkpoint is not static FP8, the only one that is read; export it with FP8"
            )
        return True


def detect(source: str | os.PathLike[str] | Config | Any) -> QuantizedFormat | None:
    """How a checkpoint is quantized; ``None`` if it is not.

    ``source`` is its folder, its ``config.json`` as a mapping, or transformers' configuration object. In a folder,
    modelopt's ``hf_quant_config.json`` is read as well; for a hub id pass the configuration. Raises ``InvalidInputError``
    for files that are not JSON objects.
    """
    if not isinstance(source, (str, os.PathLike)):
        config = source if isinstance(source, Mapping) else source.to_dict()
        return _from_config(config)
    folder = Path(source)
    config = read_object(folder / "config.json")
    modelopt = read_object(folder / "hf_quant_config.json").get("quantization") or {}
    # modelopt's config.json repeats a part of hf_quant_config.json.
    if modelopt.get("quant_algo") or modelopt.get("kv_cache_quant_algo"):
        return QuantizedFormat("modelopt", modelopt)
    return _from_config(config)


def _from_config(config: Config) -> QuantizedFormat | None:
    text = config.get("text_config")
    parts = [config, *([text] if isinstance(text, Mapping) else [])]
    # The second name is what compressed-tensors wrote before transformers knew it.
    names = ("quantization_config", "compression_config")
    settings = next((part[name] for part in parts for name in names if part.get(name)), None)
    if not settings:
        return None
    if hasattr(settings, "to_dict"):  # a configuration object
        settings = settings.to_dict()
    if not isinstance(settings, Mapping):
        raise InvalidInputError(f"quantization_config of config.json is {settings!r}, not an object; download it again")
    method = settings.get("quant_method") or ("compressed-tensors" if "config_groups" in settings else "unnamed")
    return QuantizedFormat(str(method), settings)
