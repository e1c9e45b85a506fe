"""Reading and writing a captured network: ``network.json`` and ``weights.safetensors``. Torch-free.

The format is described in docs/reference/network_format.md. Weights are written directly from their memory and read through a
memory map, so neither side holds a second copy. The safetensors library copies, so the container (eight bytes of header length,
a JSON header, the data) is read and written here instead; a test reads the files with the library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from tt_edge import strict_json
from tt_edge.dtypes import DType
from tt_edge.errors import BundleError, CaptureError
from tt_edge.folder import CheckedFile
from tt_edge.network.ir import Layer, Network, Tensor
from tt_edge.network.validate import MAX_NAME, MAX_SIZE, validate

FORMAT_VERSION = 1
NETWORK_FILE, WEIGHTS_FILE = "network.json", "weights.safetensors"

#: Limits on what is read before anything in it is trusted. Measured: 23 values and 480 bytes per layer, 55 to 110 layers per
#: block of the model. A model of 126 blocks (Llama 3.1 405B) has at most 14,000 layers, 320,000 values and 7 MB; the limits
#: are more than six times that. Parsed, the maximum number of values takes at most 0.25 GB.
MAX_NETWORK_JSON = 64 << 20
MAX_NETWORK_VALUES = 2_000_000
#: Limits for the weights file, which has 12 values and about 150 bytes per tensor, and at most two tensors per layer.
MAX_HEADER = 16 << 20
MAX_HEADER_VALUES = 500_000
MAX_RANK = 8
# Tensors start at multiples of this many bytes, so that a memory-mapped weight is aligned for any element type.
_ALIGNMENT = 64
_PADDING = "__padding__"

_SAFETENSORS: dict[DType, str] = {
    DType.FLOAT32: "F32",
    DType.FLOAT16: "F16",
    DType.BFLOAT16: "BF16",
    DType.FP8: "F8_E4M3",
    DType.INT64: "I64",
    DType.INT32: "I32",
    DType.INT8: "I8",
    DType.UINT8: "U8",
    DType.BOOL: "BOOL",
}
_FROM_SAFETENSORS = {name: dtype for dtype, name in _SAFETENSORS.items()}


def write_network(network: Network, open_file: Callable[[str], BinaryIO]) -> None:
    """Write both files through ``open_file(name)``; the files are closed when this returns.

    The same network gives the same bytes. Weights are written one at a time, without a copy of the whole.
    """
    with open_file(NETWORK_FILE) as file:
        file.write(network_json(network))
    with open_file(WEIGHTS_FILE) as file:
        write_weights(network.weights, file)


def network_json(network: Network) -> bytes:
    """``network.json`` without the weights' data; one layer per line, for diffs."""
    tensors = {t.name: [t.dtype.value, list(t.shape)] for t in network.tensors.values()}
    layers = (
        [layer.name, layer.kind, layer.inputs, layer.outputs, dict(sorted(layer.attributes.items()))]
        for layer in network.layers
    )
    parts = [
        f'{{"format_version": {FORMAT_VERSION}',
        f'"name": {json.dumps(network.name)}',
        f'"inputs": {json.dumps(network.inputs)}',
        f'"outputs": {json.dumps(network.outputs)}',
        '"tensors": {\n' + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in tensors.items()) + "\n}",
        '"layers": [\n' + ",\n".join(json.dumps(layer) for layer in layers) + "\n]}",
    ]
    return (",\n".join(parts) + "\n").encode()


def write_weights(weights: Mapping[str, np.ndarray], file: BinaryIO) -> None:
    """Write ``weights`` as a safetensors file. Arrays may have any memory order; contiguous ones are not copied."""
    header: dict[str, Any] = {}
    offset = 0
    for key, array in weights.items():
        # The padding before a tensor is written as a tensor of its own: the format allows no gaps.
        if gap := -offset % _ALIGNMENT:
            header[f"{_PADDING}{offset}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [offset, offset + gap]}
            offset += gap
        name = _SAFETENSORS.get(DType.of(array))
        if name is None:
            raise CaptureError(f"weight {key!r} has type {array.dtype}, which safetensors cannot store; pack it first")
        end = offset + array.nbytes
        header[key] = {"dtype": name, "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(len(encoded) + 8) % _ALIGNMENT)
    file.write(len(encoded).to_bytes(8, "little"))
    file.write(encoded)
    written = 0
    for array in weights.values():
        gap = -written % _ALIGNMENT
        file.write(b"\0" * gap)
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        written += gap + array.nbytes


def read_network(network_file: CheckedFile, weights_file: CheckedFile) -> Network:
    """Read a network from its two files; its weights are a read-only memory map.

    Raises ``BundleError`` for files that are malformed, truncated, or of a newer format, and for a network that
    ``validate`` refuses. Nothing in them is used before it has been checked, so a hostile file cannot cause a large
    allocation or a read out of bounds.
    """
    data = _load_json(network_file, MAX_NETWORK_JSON)
    network = parse_network(data)
    network.weights = read_weights(weights_file)
    validate(network)
    return network


def read_weights(file: CheckedFile) -> dict[str, np.ndarray]:
    """Memory-map a safetensors file: read-only arrays by name. Raises ``BundleError`` for a malformed file."""
    path, size = file.path, file.size
    try:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            _malformed(path, f"its header length {length} exceeds the file ({size} bytes)")
        header = strict_json.loads(file.read(8 + length)[8:], MAX_HEADER_VALUES)
        mapped = file.map()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); copy the bundle again") from error
    except ValueError as error:
        raise BundleError(f"{path} is malformed (its header is not JSON: {error}); copy the bundle again") from error
    if not isinstance(header, dict):
        _malformed(path, "its header is not an object")
    weights: dict[str, np.ndarray] = {}
    for key, dtype, shape, start, stop in sorted(_entries(path, header), key=lambda e: e[3]):
        if stop > size - 8 - length:
            _malformed(path, f"tensor {key!r} ends at byte {stop} of {size - 8 - length}")
        flat = np.frombuffer(mapped, np.uint8, stop - start, 8 + length + start)
        if not key.startswith(_PADDING):
            weights[key] = flat.view(dtype.numpy).reshape(shape)
    return weights


def _entries(path: Path, header: Mapping[str, Any]) -> Iterator[tuple[str, DType, tuple[int, ...], int, int]]:
    spans = []
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        try:
            dtype = _FROM_SAFETENSORS[entry["dtype"]]
            shape = tuple(entry["shape"])
            start, stop = entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            _malformed(path, f"tensor {key!r} has no usable dtype, shape and offsets")
        if not all(_is_size(v) for v in (*shape, start, stop)) or len(shape) > MAX_RANK:
            _malformed(path, f"tensor {key!r} has sizes that are not small non-negative integers")
        if start > stop or math.prod(shape) * dtype.bits != (stop - start) * 8:
            _malformed(path, f"tensor {key!r} of shape {list(shape)} does not fill its {stop - start} bytes")
        spans.append((start, stop, key))
        yield key, dtype, shape, start, stop
    end = 0
    for start, stop, key in sorted(spans):
        if start < end:
            _malformed(path, f"tensor {key!r} overlaps another")
        end = stop


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _is_dimension(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value <= MAX_SIZE


def _malformed(path: Path, why: str) -> NoReturn:
    raise BundleError(f"{path} is malformed ({why}); copy the bundle again")


def _load_json(file: CheckedFile, limit: int) -> Any:
    path = file.path
    try:
        if file.size > limit:
            _malformed(path, f"it is larger than {limit >> 20} MiB")
        return strict_json.loads(file.read(limit), MAX_NETWORK_VALUES)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); copy the bundle again") from error
    except ValueError as error:
        raise BundleError(f"{path} is not valid JSON ({error}); copy the bundle again") from error


def parse_network(data: Any) -> Network:
    """A ``Network`` without weights from parsed JSON, with every reference checked."""
    try:
        version = data["format_version"]
        if not isinstance(version, int):
            raise TypeError("format_version is not an integer")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"{NETWORK_FILE} has format version {version}, this tt-edge reads up to {FORMAT_VERSION}; update tt-edge"
            )
        tensors = {_text(name): _tensor(_text(name), *entry) for name, entry in data["tensors"].items()}
        layers = [_layer(*entry) for entry in data["layers"]]
        network = Network(_text(data["name"]), _texts(data["inputs"]), _texts(data["outputs"]), tensors, layers, {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{NETWORK_FILE} is malformed ({error!r}); copy the bundle again") from error
    return network


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise TypeError(f"{str(value)[:80]!r} is not a name")
    return value


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is not a list")
    return [_text(v) for v in values]


def _tensor(name: str, dtype: Any, shape: Any) -> Tensor:
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(_is_dimension(d) for d in shape):
        raise ValueError(f"tensor {name[:80]!r} has the shape {str(shape)[:80]}")
    return Tensor(name, DType(dtype), tuple(shape))


def _layer(name: Any, kind: Any, inputs: Any, outputs: Any, attributes: Any) -> Layer:
    if not isinstance(inputs, list) or not isinstance(attributes, dict):
        raise TypeError(f"layer {name!r} is not of the form [name, kind, inputs, outputs, attributes]")
    for key, value in attributes.items():
        scalars = value if isinstance(value, list) else [value]
        if not all(v is None or isinstance(v, bool | int | float | str) for v in scalars):
            raise TypeError(f"layer {name!r} has an attribute {key!r} of a wrong type")
    return Layer(_text(name), _text(kind), [v if v is None else _text(v) for v in inputs], _texts(outputs), attributes)
