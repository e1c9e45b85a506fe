"""The element types that an engine's products were built with, beside those that the network asks for. Torch-free.

TensorRT's engine inspector describes an engine's layers as JSON, if it was built with detailed profiling verbosity (as
``tt-edge build`` does): for each layer its name, what it reads and writes with a "Format/Datatype" such as "Half" or "Row major
linear FP8 format", the type of its weights, and the metadata of the network's layers that were fused into it. The build writes
``tt-edge:12;`` into the metadata of the network's layer 12, which is found again here; older engines are matched by name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tt_edge import strict_json
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.folder import CheckedFile
from tt_edge.network.ir import Layer, Network
from tt_edge.network.rebuild import ORIGIN
from tt_edge.tensorrt_api import TensorRT

#: How the inspector writes types, most specific first.
_TYPES: tuple[tuple[str, DType], ...] = (
    (r"BF16|BFloat16", DType.BFLOAT16),
    (r"FP8|E4M3", DType.FP8),
    (r"FP4|E2M1", DType.FP4),
    (r"FP16|Half", DType.FLOAT16),
    (r"FP32|Float", DType.FLOAT32),
    (r"UInt8", DType.UINT8),
    (r"Int64", DType.INT64),
    (r"Int32", DType.INT32),
    (r"Int8", DType.INT8),
    (r"Int4", DType.INT4),
    (r"Bool", DType.BOOL),
)
_PRODUCTS = ("MATRIX_MULTIPLY", "CONVOLUTION", "EINSUM")
#: What stands between a dequantized operand and its product without changing what was asked for.
_PASSES = ("SHUFFLE", "CAST", "IDENTITY", "UNSQUEEZE", "SQUEEZE")


@dataclass(frozen=True)
class EngineLayer:
    """A layer of an engine: the types that it reads (weights included) and writes, and the network's layers in it by index."""

    name: str
    kind: str
    reads: tuple[DType, ...]
    writes: tuple[DType, ...]
    origins: frozenset[int]
    tactic: str = ""


@dataclass(frozen=True)
class Mismatch:
    """A product of the network that was built in other types than it asks for."""

    layer: str
    asked: str
    built: str
    engine_layer: str
    tactic: str


@dataclass(frozen=True)
class PrecisionReport:
    """``products`` of the network, of which ``found`` were recognized in the engine and ``mismatches`` were built otherwise.

    ``asked`` counts the products by what they ask for; ``apart`` those whose weights only are quantized, and are dequantized by
    a layer of the engine before the product reads them: right, and slower.
    """

    products: int
    found: int
    asked: Mapping[str, int]
    mismatches: tuple[Mismatch, ...] = ()
    apart: int = 0

    @property
    def passed(self) -> bool:
        return not self.mismatches

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, **asdict(self)}

    def render(self) -> str:
        """A line, and one for each product that is otherwise (ten at most)."""
        asked = ", ".join(f"{count} in {name}" for name, count in self.asked.items())
        lines = [
            f"precision: {self.found} of {self.products} products recognized in the engine ({asked}), "
            f"{len(self.mismatches)} built in other types than asked"
        ]
        lines += [
            f"  {m.layer}: asked {m.asked}, built {m.built} ({m.engine_layer}{', ' if m.tactic else ''}{m.tactic})"
            for m in self.mismatches[:10]
        ]
        if self.apart:
            lines.append(f"  {self.apart} products read weights that another layer of the engine dequantizes")
        if len(self.mismatches) > 10:
            lines.append(f"  and {len(self.mismatches) - 10} more")
        return "\n".join(lines)


def layer_information(tensorrt: TensorRT, file: CheckedFile, *, holds_host_code: bool = False) -> str:
    """What the inspector says of an engine file, as JSON. Raises ``EngineError`` where TensorRT does not load it."""
    trt = tensorrt.module
    runtime = trt.Runtime(tensorrt.logger)
    if holds_host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(file.map())
    if engine is None:
        raise EngineError(
            f"TensorRT {tensorrt.version} does not load {file.name}; build an engine here with `tt-edge build`"
        )
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def parse_layers(text: str, network: Network) -> list[EngineLayer] | None:
    """The layers of an inspector's JSON; ``None`` where it holds names only. Raises ``EngineError`` for anything else."""
    try:
        layers = strict_json.loads(text.encode())["Layers"]
        if any(isinstance(layer, str) for layer in layers):
            return None
        names = {layer.name: index for index, layer in enumerate(network.layers)}
        return [_layer(layer, names) for layer in layers]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            f"TensorRT's engine inspector says what is not understood ({error!r}); run `tt-edge verify --runtime none`"
        ) from error


def _layer(data: Mapping[str, Any], names: Mapping[str, int]) -> EngineLayer:
    name, metadata = str(data["Name"]), str(data.get("Metadata", ""))
    origins = {int(index) for index in re.findall(ORIGIN.replace("{}", r"(\d+)"), metadata)}
    origins |= {names[part] for part in name.split(" + ") if part in names}
    weights = data.get("Weights")
    reads = [_type(tensor) for tensor in data.get("Inputs", ())]
    if isinstance(weights, Mapping):
        reads.append(type_of(str(weights.get("Type", ""))))
    return EngineLayer(
        name,
        str(data.get("LayerType", "")),
        reads=tuple(found for found in reads if found is not None),
        writes=tuple(found for tensor in data.get("Outputs", ()) if (found := _type(tensor)) is not None),
        origins=frozenset(origins),
        tactic=str(data.get("TacticName", "")),
    )


def _type(tensor: Mapping[str, Any]) -> DType | None:
    return type_of(str(tensor.get("Format/Datatype") or tensor.get("Datatype") or tensor.get("Format") or ""))


def type_of(text: str) -> DType | None:
    """The element type that an inspector's text such as ``Row major linear FP16 format`` names, if any."""
    for pattern, dtype in _TYPES:
        if re.search(rf"(?<![A-Za-z0-9])(?:{pattern})(?![0-9A-Za-z])", text, re.IGNORECASE):
            return dtype
    return None


def compare_precision(network: Network, layers: list[EngineLayer]) -> PrecisionReport:
    """Every product of ``network`` beside the engine layer that holds it."""
    by_origin: dict[int, EngineLayer] = {}
    for layer in layers:
        for index in layer.origins:
            by_origin.setdefault(index, layer)
    asked: Counter[str] = Counter()
    found, apart, mismatches = 0, 0, []
    for product in _products(network):
        asked[product.text] += 1
        engine_layer = by_origin.get(product.index)
        if engine_layer is None or not engine_layer.reads:
            continue
        found += 1
        if product.weight_only and not product.reads_weights(engine_layer):
            apart += 1
        elif not product.fits(engine_layer):
            built = " x ".join(dict.fromkeys(dtype.value for dtype in engine_layer.reads))
            mismatches.append(Mismatch(product.layer.name, product.text, built, engine_layer.name, engine_layer.tactic))
    return PrecisionReport(sum(asked.values()), found, dict(asked), tuple(mismatches), apart)


@dataclass(frozen=True)
class _Product:
    """A product and what it asks for: the quantized types of its operands, or the type that both have."""

    index: int
    layer: Layer
    #: Of the left and the right operand: its type, and the layers by which it is dequantized, if it is.
    types: tuple[DType, ...]
    dequantized_by: tuple[int, ...]
    weight_only: bool

    @property
    def text(self) -> str:
        return " x ".join(dtype.value for dtype in self.types)

    def fits(self, layer: EngineLayer) -> bool:
        """Whether the engine's layer reads what was asked for. What it dequantizes itself is fused into it, and not read."""
        fused = self.weight_only and any(index in layer.origins for index in self.dequantized_by)
        return fused or all(dtype in layer.reads for dtype in self.types)

    def reads_weights(self, layer: EngineLayer) -> bool:
        """Whether the engine's layer reads quantized weights, or dequantizes them itself."""
        quantized = [dtype for dtype in self.types if dtype not in (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)]
        return all(dtype in layer.reads for dtype in quantized) or any(i in layer.origins for i in self.dequantized_by)


def _products(network: Network) -> Iterator[_Product]:
    producers = {name: (index, layer) for index, layer in enumerate(network.layers) for name in layer.outputs}
    for index, layer in enumerate(network.layers):
        if layer.kind not in _PRODUCTS:
            continue
        operands = [_asked(network, producers, name) for name in layer.inputs[:2] if name is not None]
        quantized = [by is not None for _, by in operands]
        yield _Product(
            index,
            layer,
            types=tuple(dtype for dtype, _ in operands),
            dequantized_by=tuple(by for _, by in operands if by is not None),
            weight_only=any(quantized) and not all(quantized),
        )


def _asked(network: Network, producers: Mapping[str, tuple[int, Layer]], name: str) -> tuple[DType, int | None]:
    """The type of an operand before it is dequantized, and by which layer it is; its own type where it is not quantized."""
    own = network.tensors[name].dtype
    while name in producers:
        index, layer = producers[name]
        source = next((found for found in layer.inputs if found is not None), None)
        if source is None:
            break
        if layer.kind == "DEQUANTIZE":
            return network.tensors[source].dtype, index
        if layer.kind not in _PASSES:
            break
        name = source
    return own, None
