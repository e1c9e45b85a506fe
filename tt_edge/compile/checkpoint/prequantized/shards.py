"""The tensors of a checkpoint's safetensors files, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tt_edge.compile.checkpoint.hub import shard_names
from tt_edge.compile.checkpoint.json_files import read_object
from tt_edge.errors import InvalidInputError

#: Last parts of the names of weight tensors.
_WEIGHTS = frozenset({"weight", "qweight", "weight_packed"})


class Shards(Mapping[str, Tensor]):
    """Tensors by name, from the files that transformers would load.

    Tensors alias the mapped file: copy one before changing it in place.
    """

    def __init__(self, folder: Path) -> None:
        self._file_of: dict[str, Any] = {}
        for name in safetensors_files(folder):
            try:
                file: Any = safe_open(str(folder / name), framework="pt")
            except (OSError, SafetensorError) as error:
                raise InvalidInputError(
                    f"checkpoint {folder} does not load: {name} does not open as safetensors ({error}); download it again"
                ) from error
            self._file_of.update(dict.fromkeys(file.keys(), file))

    def dtype_of(self, name: str) -> str:
        """The dtype of a tensor in its file, such as ``F8_E4M3``, without reading the tensor."""
        return str(self._file_of[name].get_slice(name).get_dtype())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._file_of  # Mapping's own would read it

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def safetensors_files(folder: Path) -> list[str]:
    """Names of a checkpoint's safetensors files, found in transformers' order: the file named by ``transformers_weights`` in
    ``config.json``, ``model.safetensors``, the shards of its index; last, a single file of another name, as AutoGPTQ writes.

    Raises ``InvalidInputError`` where there are none, or several and no index.
    """
    named = _explicit(folder)
    for name in [named] if named else ["model.safetensors", "model.safetensors.index.json"]:
        if (folder / name).is_file():
            return shard_names(folder / name) if name.endswith(".index.json") else [name]
    names = sorted(file.name for file in folder.glob("*.safetensors"))
    if len(names) == 1 and not named:
        return names
    if any(folder.glob("pytorch_model*.bin")):
        raise InvalidInputError(
            f"checkpoint {folder} is quantized and has its weights as .bin files, which are read in full precision only; load "
            "it where it was quantized, and save it as safetensors"
        )
    raise InvalidInputError(
        f"checkpoint {folder} has {len(names)} safetensors files and no {named or 'model.safetensors.index.json'}; "
        "download it again"
    )


def _explicit(folder: Path) -> str | None:
    name = read_object(folder / "config.json").get("transformers_weights")
    return name if isinstance(name, str) and Path(name).name == name else None


def check_full_precision(folder: Path) -> None:
    """Raise ``InvalidInputError`` for a weight in a quantized type, in a checkpoint whose ``config.json`` has no quantization.

    transformers would use the stored values without their scales.
    """
    if not any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        return
    shards = Shards(folder)
    for name in shards:
        dtype = shards.dtype_of(name)
        if dtype.startswith("F8") or (dtype in ("I8", "U8", "I32") and name.rpartition(".")[2] in _WEIGHTS):
            raise InvalidInputError(
                f"checkpoint {folder} has {name} in {dtype}, a quantized weight, and its config.json has no quantization_config; "
                "give the checkpoint with it, or the full-precision one with --quant"
            )
