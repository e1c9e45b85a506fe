"""The contracts of attention plugins, as data: four generations of NVIDIA's ``AttentionPlugin``, and tt-edge's own. Torch-free.

NVIDIA's all register under the same name, version and namespace. Only the creator's field names and the plugin interface
identify a library's generation, so a library that matches none is refused. tt-edge's ``Attention`` (``plugins/cuda``) has a
namespace of its own.

Sources: the fork github.com/chohk88/TensorRT-Edge-LLM (0.4), NVIDIA/TensorRT-Edge-LLM v0.9.1 and v0.10.0
(``cpp/plugins/attentionPlugin``), the Python sources and the creator of the ``tensorrt-edgellm`` 0.11.0 package, and
``plugins/cuda/tensorrt/plugins.cpp``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tt_edge.compat import StrEnum
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError

NAME, VERSION, NAMESPACE = "AttentionPlugin", "1", ""

#: tt-edge's own plugins. Their version is ``VERSION``, too.
OWN_NAME, OWN_NAMESPACE, OWN_CONTRACT = "Attention", "tt_edge", "tt-edge"

#: Tokens of a page of a paged cache (0.10 and 0.11).
PAGE_TOKENS = 128

#: Head sizes for which every library of NVIDIA's has prebuilt kernels, and those of tt-edge's kernels.
HEAD_SIZES, OWN_HEAD_SIZES = (64, 128, 256), (64, 80, 96, 128, 256)

#: Name of the cache among ``Generation.inputs``.
CACHE = "past_key_values"

Value = int | float | tuple[float, ...]
Size = int | str


class Interface(StrEnum):
    """TensorRT's plugin interface."""

    V2 = "IPluginV2DynamicExt"
    V3 = "IPluginV3"


class FieldType(StrEnum):
    """Element type of a creator's field: TensorRT's ``PluginFieldType`` by name."""

    INT32 = "INT32"
    FLOAT32 = "FLOAT32"
    CHAR = "CHAR"


class Source(StrEnum):
    """Where a field's value comes from, if it is not the same in every layer."""

    #: The attention layer.
    LAYER = "layer"
    #: Not passed: the plugin has its own default, for a feature that is not used.
    OMITTED = "omitted"


@dataclass(frozen=True)
class Field:
    """A field of the creator: its name, type, and its value or the value's source."""

    name: str
    type: FieldType
    value: Value | Source


@dataclass(frozen=True)
class Operand:
    """An input or output. ``dtype`` is ``None`` for activations: float16, or with tt-edge's plugin also bfloat16.

    ``shape`` has sizes and these names: ``batch`` (B), ``sequence`` (S, the padded width), ``tokens`` (T, of all slots),
    ``q_heads`` (Hq), ``kv_heads`` (Hkv), ``head_size`` (D), ``q_width`` (Hq·D), ``kv_width`` (Hkv·D), ``qkv_width``
    ((Hq + 2·Hkv)·D), ``capacity``, ``rotary_dim``, ``pages``, ``pages_per_row``, ``batch+1``, and three whose size carries
    information: ``starts`` (0 or B), ``phase`` (1 or 3), ``contexts`` (B or 0).
    """

    name: str
    dtype: DType | None
    shape: tuple[Size, ...]
    meaning: str

    def resolve(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape for given sizes."""
        return tuple(size if isinstance(size, int) else sizes[size] for size in self.shape)


@dataclass(frozen=True)
class Generation:
    """One generation: interface, fields, and inputs and outputs in order, without the optional groups.

    The second output is the cache again; it and the input must be bound to one address. In all generations the plugin
    computes RoPE, writes K and V to the cache and computes causal attention. RoPE pairs halves and reads float32 rows of
    ``rotary_dim / 2`` cosines, then as many sines.
    """

    version: str
    interface: Interface
    fields: tuple[Field, ...]
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    #: Under what the creator is registered.
    name: str = NAME
    namespace: str = NAMESPACE
    head_sizes: tuple[int, ...] = HEAD_SIZES
    #: The number of rotated elements must be a multiple of this.
    rotary_step: int = 2
    has_bf16: bool = False
    #: A logit for each head that takes part in the softmax: the input after ``inputs``, in layers that have one.
    sinks: Operand | None = None

    def operands(self, count: int) -> tuple[Operand, ...]:
        """The inputs of a layer that has ``count`` of them."""
        with_sinks = (*self.inputs, self.sinks) if self.sinks is not None else self.inputs
        return with_sinks if count == len(with_sinks) else self.inputs

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(operand.name for operand in self.inputs)

    @property
    def field_names(self) -> frozenset[str]:
        return frozenset(field.name for field in self.fields)

    @property
    def packed(self) -> bool:
        """Whether Q, K and V are one input."""
        return "qkv" in self.input_names

    @property
    def paged(self) -> bool:
        """Whether the cache is a pool of pages, which ``kv_page_table`` assigns to slots."""
        return "kv_page_table" in self.input_names

    @property
    def ragged(self) -> bool:
        """Whether the tokens of all slots are in one dimension, each with its own row of cosines and sines."""
        return "query_start_offsets" in self.input_names

    @property
    def has_sliding_window(self) -> bool:
        return "sliding_window_size" in self.field_names

    @property
    def has_softcap(self) -> bool:
        return "softcap" in self.field_names

    @property
    def has_fp8_cache(self) -> bool:
        return bool({"enable_fp8_kv_cache", "k_scale"} & self.field_names)

    @property
    def has_attention_scale(self) -> bool:
        return "attention_scale" in self.field_names

    def field_values(
        self,
        *,
        num_q_heads: int,
        num_kv_heads: int,
        head_size: int,
        attention_scale: float,
        sliding_window_size: int,
        qkv_scales: tuple[float, ...] | None = None,
        softcap: float = 0.0,
        has_sinks: bool = False,
    ) -> dict[str, tuple[FieldType, Value]]:
        """The fields to create one layer's plugin with, by name, in order.

        ``qkv_scales`` are the scales of an FP8 cache: queries, keys and values are divided by them before rounding
        (``attentionPlugin.h`` of 0.9.1 calls them dequantization scales).
        """
        layer: dict[str, Value] = {
            "num_q_heads": num_q_heads,
            "num_kv_heads": num_kv_heads,
            "head_size": head_size,
            "attention_scale": attention_scale,
            "sliding_window_size": sliding_window_size,
            "softcap": softcap,
            "enable_attention_sink": int(has_sinks),
        }
        fp8: dict[str, Value] = {}
        if qkv_scales:
            fp8 = {
                "enable_fp8_kv_cache": 1,
                "qkv_scales": qkv_scales,
                "k_scale": qkv_scales[1],
                "v_scale": qkv_scales[2],
            }
        return {
            field.name: (
                field.type,
                layer[field.name] if field.value is Source.LAYER else fp8.get(field.name, field.value),
            )
            for field in self.fields
            if field.value is not Source.OMITTED
        }  # type: ignore[return-value]


def _flags(*names: str) -> tuple[Field, ...]:
    """Fields that switch features off."""
    return tuple(Field(name, FieldType.INT32, 0) for name in names)


_HEADS = tuple(Field(name, FieldType.INT32, Source.LAYER) for name in ("num_q_heads", "num_kv_heads", "head_size"))
_SCALE = Field("attention_scale", FieldType.FLOAT32, Source.LAYER)
_WINDOW = Field("sliding_window_size", FieldType.INT32, Source.LAYER)  # -1: unlimited
_QKV_SCALES = Field("qkv_scales", FieldType.FLOAT32, (1.0, 1.0, 1.0))  # of an fp8 cache
_EPSILON = Field("rms_norm_eps", FieldType.FLOAT32, Source.OMITTED)
_SKIP_SOFTMAX = Field("skip_softmax_scale_factor", FieldType.FLOAT32, 0.0)

_QKV = Operand("qkv", None, ("batch", "sequence", "qkv_width"), "queries, keys, values of each token, before RoPE")
_LINEAR = Operand(CACHE, None, ("batch", 2, "kv_heads", "capacity", "head_size"), "K then V of each row")
_POOL = Operand(CACHE, None, (2, "pages", PAGE_TOKENS, "kv_heads", "head_size"), "pages of K, pages of V")
_CONTEXT_LENGTHS = Operand(
    "context_lengths", DType.INT32, ("batch",), "prefill: new tokens that count; decode: all tokens after this step"
)
_ROPE = Operand("rope_rotary_cos_sin", DType.FLOAT32, (1, "capacity", "rotary_dim"), "by position: cosines, sines")
_STARTS = Operand(
    "kvcache_start_index", DType.INT32, ("starts",), "empty: plain prefill; else tokens already in each row's cache"
)
_PAGE_TABLE = Operand(
    "kv_page_table",
    DType.INT32,
    ("batch", 2, "pages_per_row"),
    "page numbers: K's, then V's, which count on from pages",
)
_ATTENTION = Operand("attention", None, ("batch", "sequence", "q_heads", "head_size"), "result")


def _per_row(name: str, meaning: str) -> Operand:
    return Operand(name, DType.INT32, ("batch",), meaning)


GENERATIONS: dict[str, Generation] = {
    generation.version: generation
    for generation in (
        Generation(
            version="0.4",
            interface=Interface.V2,
            fields=(*_HEADS, *_flags("enable_tree_attention", "enable_delta_kv_output")),
            inputs=(_QKV, _LINEAR, _CONTEXT_LENGTHS, _ROPE, _STARTS),
            outputs=(_ATTENTION, _LINEAR),
        ),
        Generation(
            version="0.9.1",
            interface=Interface.V3,
            fields=(
                *_HEADS,
                _SCALE,
                *_flags("enable_tree_attention", "enable_fp8_kv_cache", "enable_vision_block_attention"),
                _WINDOW,
                _QKV_SCALES,
            ),
            inputs=(
                Operand("q", None, ("batch", "sequence", "q_width"), "queries, before RoPE"),
                Operand("k", None, ("batch", "sequence", "kv_width"), "keys, before RoPE"),
                Operand("v", None, ("batch", "sequence", "kv_width"), "values"),
                _LINEAR,
                _CONTEXT_LENGTHS,
                _ROPE,
                _STARTS,
            ),
            outputs=(_ATTENTION, _LINEAR),
        ),
        Generation(
            version="0.10",
            interface=Interface.V3,
            fields=(
                *_HEADS,
                _SCALE,
                *_flags("enable_tree_attention", "enable_fp8_kv_cache", "enable_vision_block_attention"),
                _WINDOW,
                _QKV_SCALES,
                *_flags("enable_qk_norm", "enable_kv_shared", "enable_context_mask_selector"),
                _EPSILON,
                _SKIP_SOFTMAX,
            ),
            inputs=(_QKV, _POOL, _CONTEXT_LENGTHS, _ROPE, _STARTS, _PAGE_TABLE),
            outputs=(_ATTENTION, _POOL),
        ),
        Generation(
            version="0.11",
            interface=Interface.V3,
            fields=(
                *_HEADS,
                *_flags("enable_tree_attention", "enable_qk_norm"),
                Field("qk_norm_post_rope", FieldType.INT32, Source.OMITTED),
                *_flags("enable_kv_shared", "enable_attention_sink", "enable_contiguous_query_swa"),
                *_flags("enable_fp8_kv_cache", "enable_vision_block_attention", "enable_context_mask_selector"),
                _WINDOW,
                Field("supports_bounded_kv_cache", FieldType.INT32, Source.OMITTED),
                _SCALE,
                _SKIP_SOFTMAX,
                _QKV_SCALES,
                _EPSILON,
                Field("xqa_jit_kernels", FieldType.CHAR, Source.OMITTED),
            ),
            inputs=(
                Operand("qkv", None, ("tokens", "qkv_width"), _QKV.meaning),
                _POOL,
                _per_row("query_lengths", "new tokens"),
                Operand("rope_rotary_cos_sin", DType.FLOAT32, ("tokens", "rotary_dim"), "of each token, not a table"),
                _per_row("past_lengths", "tokens already in the cache"),
                _PAGE_TABLE,
                Operand("query_start_offsets", DType.INT32, ("batch+1",), "where each row's tokens begin, and the end"),
                _per_row("attention_sequence_lengths", "past and new tokens"),
                Operand("execution_phase_marker", DType.INT32, ("phase",), "its length: 1 context, 3 generation"),
                Operand("context_sequence_count_carrier", DType.INT32, ("contexts",), "its length: rows in context"),
            ),
            outputs=(Operand("attention", None, ("tokens", "q_heads", "head_size"), "result"), _POOL),
        ),
        Generation(
            version=OWN_CONTRACT,
            interface=Interface.V3,
            fields=(
                *_HEADS,
                _SCALE,
                _WINDOW,
                Field("softcap", FieldType.FLOAT32, Source.LAYER),  # 0: none
                *_flags("enable_tree_attention"),
                Field("enable_attention_sink", FieldType.INT32, Source.LAYER),
                Field("k_scale", FieldType.FLOAT32, 1.0),
                Field("v_scale", FieldType.FLOAT32, 1.0),
            ),
            inputs=(
                _QKV,
                _LINEAR,
                _per_row("past_lengths", "tokens already in the cache"),
                _per_row("query_lengths", "new tokens; the others are not written, and their result is zero"),
                _ROPE,
            ),
            outputs=(_ATTENTION, _LINEAR),
            name=OWN_NAME,
            namespace=OWN_NAMESPACE,
            head_sizes=OWN_HEAD_SIZES,
            rotary_step=16,
            has_bf16=True,
            sinks=Operand("sinks", DType.FLOAT32, ("q_heads",), "a logit of each head, without a value"),
        ),
    )
}


def detect(fields: Iterable[str], interface: Interface) -> Generation:
    """The generation whose creator has exactly these field names and this interface.

    Raises ``EngineError`` for any other, with the fields found and the generations supported.
    """
    found = frozenset(fields)
    for generation in GENERATIONS.values():
        if (generation.field_names, generation.interface) == (found, interface):
            return generation
    near = min(GENERATIONS.values(), key=lambda g: len(g.field_names ^ found))
    difference = ", ".join(sorted(near.field_names ^ found)) or f"interface {interface}"
    raise EngineError(
        f"the attention plugin ({interface}) has an unknown contract: fields {', '.join(sorted(found)) or 'none'}; supported "
        f"generations are {', '.join(GENERATIONS)} (nearest: {near.version}, which differs in {difference}); install one of those"
    )


def pages_per_row(capacity: int) -> int:
    """Pages that hold ``capacity`` tokens."""
    return -(-capacity // PAGE_TOKENS)
