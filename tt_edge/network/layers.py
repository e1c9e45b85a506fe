"""Every layer kind that can be captured: which properties to read from TensorRT's layer, and how to add it again.

One table drives both directions, so they cannot drift apart. A kind that is not in it is refused at capture.
Attribute names are the properties of TensorRT's Python bindings; see ``tt_edge.network.ir`` for the conventions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tt_edge.compat import StrEnum
from tt_edge.errors import CaptureError
from tt_edge.network.ir import Attribute


class Codec(StrEnum):
    """How a property becomes a JSON value and back."""

    INTEGER = "integer"
    NUMBER = "number"
    FLAG = "flag"
    TEXT = "text"
    DIMS = "dims"
    PERMUTATION = "permutation"
    NUMBERS = "numbers"


@dataclass(frozen=True)
class Property:
    """One property of a layer. ``codec`` is a ``Codec`` or the name of a TensorRT enum.

    ``replaced_by`` is the index of the input that, when set, replaces the property. ``at_creation`` properties are
    arguments of the ``add_*`` call; the others are assigned afterwards. The property exists since TensorRT ``since``;
    earlier releases behave as with the value ``default``.
    """

    name: str
    codec: str
    replaced_by: int | None = None
    at_creation: bool = False
    default: Attribute = None
    since: str = ""

    def read(self, trt: Any, layer: Any) -> Attribute:
        """The property's JSON value; ``None`` if it is unset."""
        try:
            value = getattr(layer, self.name)
        except (RuntimeError, ValueError):  # the bindings raise for an unset block_shape
            return None
        if value is None:
            return None
        match self.codec:
            case Codec.INTEGER:
                return int(value)
            case Codec.NUMBER:
                return float(value)
            case Codec.FLAG:
                return bool(value)
            case Codec.TEXT:
                return str(value)
            case Codec.DIMS | Codec.PERMUTATION:
                return [int(v) for v in value]
            case Codec.NUMBERS:
                return [float(v) for v in value]
            case _:
                return str(value.name)

    def decode(self, trt: Any, value: Attribute) -> Any:
        """The bindings' value for a JSON value."""
        match self.codec:
            case Codec.DIMS | Codec.NUMBERS:
                return tuple(value)  # type: ignore[arg-type]
            case Codec.PERMUTATION:
                return trt.Permutation(list(value))  # type: ignore[arg-type]
            case Codec.INTEGER | Codec.NUMBER | Codec.FLAG | Codec.TEXT:
                return value
            case _:
                return enum_member(trt, self.codec, str(value))


def enum_member(trt: Any, enum: str, name: str) -> Any:
    """``trt.<enum>.<name>``; raises ``CaptureError`` when this TensorRT lacks it."""
    member = getattr(getattr(trt, enum, None), name, None)
    if member is None:
        raise CaptureError(
            f"TensorRT {trt.__version__} has no {enum}.{name}; build with the version it was captured with"
        )
    return member


@dataclass(frozen=True)
class Adder:
    """The arguments of a spec's ``add``: the network, the inputs as tensors, and decoded attributes by name."""

    trt: Any
    network: Any
    inputs: list[Any]
    values: dict[str, Any]
    rank: int  # of the first input

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


@dataclass(frozen=True)
class LayerSpec:
    """How to capture and rebuild one kind of layer.

    ``add`` creates the layer from its first ``direct_inputs`` inputs (``None``: all of them); the rest are set by index.
    """

    binding: str
    add: Callable[[Adder], Any]
    properties: tuple[Property, ...] = ()
    direct_inputs: int | None = None
    weights: tuple[str, ...] = field(default=())


def _at(name: str, codec: str, replaced_by: int | None = None) -> Property:
    return Property(name, codec, replaced_by, at_creation=True)


_I, _N, _F, _D, _P = Codec.INTEGER, Codec.NUMBER, Codec.FLAG, Codec.DIMS, Codec.PERMUTATION


def _add_slice(a: Adder) -> Any:
    # Placeholders where an input replaces the attribute; their rank is that of the attributes that are present.
    rank = a.rank
    zeros, ones = (0,) * rank, (1,) * rank
    return a.network.add_slice(
        a.inputs[0],
        a.values.get("start") or zeros,
        a.values.get("shape") or ones,
        a.values.get("stride") or ones,
    )


def _add_fill(a: Adder) -> Any:
    return a.network.add_fill(a.values.get("shape") or (1,), a["operation"], a["to_type"])


def _add_dynamic_quantize(a: Adder) -> Any:
    return a.network.add_dynamic_quantize(a.inputs[0], a["axis"], a["block_size"], a["to_type"], a["scale_type"])


def _add_gather(a: Adder) -> Any:
    return a.network.add_gather_v2(a.inputs[0], a.inputs[1], a["mode"])


def _add_kv_cache_update(a: Adder) -> Any:
    return a.network.add_kv_cache_update(*a.inputs[:3], a["cache_mode"])


def _add_rotary_embedding(a: Adder) -> Any:
    return a.network.add_rotary_embedding(*a.inputs[:3], a["interleaved"], a["rotary_embedding_dim"])


_CONVOLUTION = (
    _at("num_output_maps", _I),
    _at("kernel_size_nd", _D),
    Property("stride_nd", _D),
    Property("padding_mode", "PaddingMode"),
    Property("pre_padding", _D),
    Property("post_padding", _D),
    Property("dilation_nd", _D),
    Property("num_groups", _I),
)

SPECS: dict[str, LayerSpec] = {
    "ACTIVATION": LayerSpec(
        "IActivationLayer",
        lambda a: a.network.add_activation(a.inputs[0], a["type"]),
        (_at("type", "ActivationType"), Property("alpha", _N), Property("beta", _N)),
    ),
    "ASSERTION": LayerSpec(
        "IAssertionLayer",
        lambda a: a.network.add_assertion(a.inputs[0], a["message"]),
        (_at("message", Codec.TEXT),),
    ),
    "CAST": LayerSpec(
        "ICastLayer", lambda a: a.network.add_cast(a.inputs[0], a["to_type"]), (_at("to_type", "DataType"),)
    ),
    "CONCATENATION": LayerSpec(
        "IConcatenationLayer", lambda a: a.network.add_concatenation(a.inputs), (Property("axis", _I),)
    ),
    "CONVOLUTION": LayerSpec(
        "IConvolutionLayer",
        lambda a: a.network.add_convolution_nd(
            a.inputs[0], a["num_output_maps"], a["kernel_size_nd"], a["kernel"], a["bias"]
        ),
        _CONVOLUTION,
        direct_inputs=1,
        weights=("kernel", "bias"),
    ),
    "CUMULATIVE": LayerSpec(
        "ICumulativeLayer",
        lambda a: a.network.add_cumulative(*a.inputs, a["op"], a["exclusive"], a["reverse"]),
        (_at("op", "CumulativeOperation"), _at("exclusive", _F), _at("reverse", _F)),
    ),
    "DEQUANTIZE": LayerSpec(
        "IDequantizeLayer",
        lambda a: a.network.add_dequantize(a.inputs[0], a.inputs[1], a["to_type"]),
        (_at("to_type", "DataType"), Property("axis", _I), Property("block_shape", _D, since="10.15")),
        direct_inputs=2,
    ),
    "DYNAMIC_QUANTIZE": LayerSpec(
        "IDynamicQuantizeLayer",
        _add_dynamic_quantize,
        (_at("axis", _I), _at("block_size", _I), _at("to_type", "DataType"), _at("scale_type", "DataType")),
        direct_inputs=1,
    ),
    "EINSUM": LayerSpec(
        "IEinsumLayer",
        lambda a: a.network.add_einsum(a.inputs, a["equation"]),
        (_at("equation", Codec.TEXT),),
    ),
    "ELEMENTWISE": LayerSpec(
        "IElementWiseLayer",
        lambda a: a.network.add_elementwise(*a.inputs, a["op"]),
        (_at("op", "ElementWiseOperation"),),
    ),
    "FILL": LayerSpec(
        "IFillLayer",
        _add_fill,
        (
            _at("operation", "FillOperation"),
            _at("to_type", "DataType"),
            _at("shape", _D, replaced_by=0),
            Property("alpha", _N, replaced_by=1),
            Property("beta", _N, replaced_by=2),
        ),
        direct_inputs=0,
    ),
    "GATHER": LayerSpec(
        "IGatherLayer",
        _add_gather,
        (_at("mode", "GatherMode"), Property("axis", _I), Property("num_elementwise_dims", _I)),
    ),
    "IDENTITY": LayerSpec("IIdentityLayer", lambda a: a.network.add_identity(a.inputs[0])),
    "KV_CACHE_UPDATE": LayerSpec(
        "IKVCacheUpdateLayer",
        _add_kv_cache_update,
        (
            _at("cache_mode", "KVCacheMode"),
            Property("update_form", "AttentionIOForm", default="PADDED_BHND", since="11.0"),
        ),
        direct_inputs=3,
    ),
    "MATRIX_MULTIPLY": LayerSpec(
        "IMatrixMultiplyLayer",
        lambda a: a.network.add_matrix_multiply(a.inputs[0], a["op0"], a.inputs[1], a["op1"]),
        (_at("op0", "MatrixOperation"), _at("op1", "MatrixOperation")),
    ),
    "NON_ZERO": LayerSpec(
        "INonZeroLayer",
        lambda a: a.network.add_non_zero(a.inputs[0]),
        (Property("indices_type", "DataType", default="INT32", since="10.14"),),
    ),
    "NORMALIZATION": LayerSpec(
        "INormalizationLayer",
        lambda a: (a.network.add_normalization_v2 if a["is_v2"] else a.network.add_normalization)(*a.inputs, a["axes"]),
        (_at("axes", _I), _at("is_v2", _F), Property("epsilon", _N), Property("num_groups", _I)),
    ),
    "ONE_HOT": LayerSpec("IOneHotLayer", lambda a: a.network.add_one_hot(*a.inputs, a["axis"]), (_at("axis", _I),)),
    "POOLING": LayerSpec(
        "IPoolingLayer",
        lambda a: a.network.add_pooling_nd(a.inputs[0], a["type"], a["window_size_nd"]),
        (
            _at("type", "PoolingType"),
            _at("window_size_nd", _D),
            Property("stride_nd", _D),
            Property("padding_mode", "PaddingMode"),
            Property("pre_padding", _D),
            Property("post_padding", _D),
            Property("average_count_excludes_padding", _F),
            Property("blend_factor", _N),
        ),
    ),
    "QUANTIZE": LayerSpec(
        "IQuantizeLayer",
        lambda a: a.network.add_quantize(a.inputs[0], a.inputs[1], a["to_type"]),
        (_at("to_type", "DataType"), Property("axis", _I), Property("block_shape", _D, since="10.15")),
        direct_inputs=2,
    ),
    "REDUCE": LayerSpec(
        "IReduceLayer",
        lambda a: a.network.add_reduce(a.inputs[0], a["op"], a["axes"], a["keep_dims"]),
        (_at("op", "ReduceOperation"), _at("axes", _I), _at("keep_dims", _F)),
    ),
    "RESIZE": LayerSpec(
        "IResizeLayer",
        lambda a: a.network.add_resize(a.inputs[0]),
        (
            Property("shape", _D, replaced_by=1),
            Property("scales", Codec.NUMBERS, replaced_by=1),
            Property("resize_mode", "InterpolationMode"),
            Property("coordinate_transformation", "ResizeCoordinateTransformation"),
            Property("selector_for_single_pixel", "ResizeSelector"),
            Property("nearest_rounding", "ResizeRoundMode"),
            Property("cubic_coeff", _N),
            Property("exclude_outside", _F),
        ),
        direct_inputs=1,
    ),
    "ROTARY_EMBEDDING": LayerSpec(
        "IRotaryEmbeddingLayer",
        _add_rotary_embedding,
        (_at("interleaved", _F), _at("rotary_embedding_dim", _I)),
        direct_inputs=3,
    ),
    "SCATTER": LayerSpec(
        "IScatterLayer",
        lambda a: a.network.add_scatter(*a.inputs, a["mode"]),
        (_at("mode", "ScatterMode"), Property("axis", _I)),
    ),
    "SELECT": LayerSpec("ISelectLayer", lambda a: a.network.add_select(*a.inputs)),
    "SHAPE": LayerSpec("IShapeLayer", lambda a: a.network.add_shape(a.inputs[0])),
    "SHUFFLE": LayerSpec(
        "IShuffleLayer",
        lambda a: a.network.add_shuffle(a.inputs[0]),
        (
            Property("first_transpose", _P),
            Property("reshape_dims", _D, replaced_by=1),
            Property("second_transpose", _P),
            Property("zero_is_placeholder", _F),
        ),
        direct_inputs=1,
    ),
    "SLICE": LayerSpec(
        "ISliceLayer",
        _add_slice,
        (
            _at("start", _D, replaced_by=1),
            _at("shape", _D, replaced_by=2),
            _at("stride", _D, replaced_by=3),
            Property("mode", "SampleMode"),
            Property("axes", _D, replaced_by=5),
        ),
        direct_inputs=1,
    ),
    "SOFTMAX": LayerSpec("ISoftMaxLayer", lambda a: a.network.add_softmax(a.inputs[0]), (Property("axes", _I),)),
    "SQUEEZE": LayerSpec("ISqueezeLayer", lambda a: a.network.add_squeeze(*a.inputs)),
    "TOPK": LayerSpec(
        "ITopKLayer",
        lambda a: a.network.add_topk(a.inputs[0], a["op"], a["k"], a["axes"]),
        (
            _at("op", "TopKOperation"),
            _at("k", _I),
            _at("axes", _I),
            Property("indices_type", "DataType", default="INT32", since="10.14"),
        ),
        direct_inputs=1,
    ),
    "UNARY": LayerSpec(
        "IUnaryLayer", lambda a: a.network.add_unary(a.inputs[0], a["op"]), (_at("op", "UnaryOperation"),)
    ),
    "UNSQUEEZE": LayerSpec("IUnsqueezeLayer", lambda a: a.network.add_unsqueeze(*a.inputs)),
}

#: Properties of an ``IAttention`` that are not inputs.
ATTENTION: tuple[Property, ...] = (
    _at("norm_op", "AttentionNormalizationOp"),
    _at("causal_kind", "CausalMaskKind"),
    Property("decomposable", _F),
    Property("query_form", "AttentionIOForm", default="PADDED_BHND", since="11.0"),
    Property("key_value_form", "AttentionIOForm", default="PADDED_BHND", since="11.0"),
)

#: Inputs of an ``ATTENTION`` layer by index (NvInfer.h, ``IAttentionInputLayer::setInput``); the last four are properties.
ATTENTION_INPUTS = (
    "query",
    "key",
    "value",
    "mask",
    "normalization_quantize_scale",
    "query_lengths",
    "key_value_lengths",
)
