"""The tensors of a checkpoint's safetensors files, memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tt_edge.errors import InvalidInputError


class Shards(Mapping[str, Tensor]):
    """Tensors by name, of one file or of the shards that ``model.safetensors.index.json`` lists.

    A tensor that is asked for aliases the mapped file: change it in place only as a copy.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError) as error:
                raise InvalidInputError(f"{index} is damaged ({error}); download the checkpoint again") from error
        else:
            names = sorted(file.name for file in folder.glob("*.safetensors"))  # AutoGPTQ has names of its own
            if len(names) != 1:
                raise InvalidInputError(
                    f"checkpoint {folder} has {len(names)} safetensors files and no {index.name}; download it again"
                )
        self._file_of: dict[str, Any] = {}
        for name in names:
            try:
                file: Any = safe_open(str(folder / name), framework="pt")
            except (OSError, SafetensorError) as error:
                raise InvalidInputError(
                    f"{folder / name} does not open as safetensors ({error}); download the checkpoint again"
                ) from error
            self._file_of.update(dict.fromkeys(file.keys(), file))

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._file_of  # Mapping's own would read it

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)
