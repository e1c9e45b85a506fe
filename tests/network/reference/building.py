"""Networks for tests: single layers, and a small Qwen-like decoder, built directly in the captured form."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.network.ir import Attribute, Layer, Network, Tensor
from tt_edge.network.reference import ReferenceEvaluator


@dataclass
class NetworkBuilder:
    network: Network = field(default_factory=lambda: Network("test", [], [], {}, [], {}))

    def input(self, name: str, dtype: DType, shape: tuple[int, ...]) -> str:
        self.network.inputs.append(name)
        return self._tensor(name, dtype, shape)

    def constant(self, array: np.ndarray, key: str | None = None, shape: tuple[int, ...] | None = None) -> str:
        key = key or f"w{len(self.network.layers)}"
        weights = self.network.weights
        assert isinstance(weights, dict)
        weights.setdefault(key, array)
        shape = array.shape if shape is None else shape
        return self.layer("CONSTANT", [], DType.of(array.dtype), shape, weights=key, shape=list(shape))

    def layer(
        self, kind: str, inputs: list[str | None], dtype: DType, shape: tuple[int, ...], /, **attributes: Attribute
    ) -> str:
        return self.layers(kind, inputs, [(dtype, shape)], **attributes)[0]

    def layers(
        self,
        kind: str,
        inputs: list[str | None],
        outputs: list[tuple[DType, tuple[int, ...]]],
        /,
        **attributes: Attribute,
    ) -> list[str]:
        name = f"{kind.lower()}_{len(self.network.layers)}"
        names = [self._tensor(f"{name}.{i}", *output) for i, output in enumerate(outputs)]
        self.network.layers.append(Layer(name, kind, inputs, names, dict(attributes)))
        return names

    def output(self, *names: str) -> Network:
        self.network.outputs.extend(names)
        return self.network

    def _tensor(self, name: str, dtype: DType, shape: tuple[int, ...]) -> str:
        self.network.tensors[name] = Tensor(name, dtype, shape)
        return name


def evaluate_all(
    kind: str,
    inputs: list[np.ndarray | None],
    outputs: list[tuple[DType, int]],
    constants: tuple[int, ...] = (),
    **attributes: Attribute,
) -> list[np.ndarray]:
    """Run one layer with outputs of (dtype, rank); ``constants`` are the inputs that are constants of the network."""
    builder, feeds, names = NetworkBuilder(), {}, []
    for index, array in enumerate(inputs):
        if array is None:
            names.append(None)
        elif index in constants:
            names.append(builder.constant(array))
        else:
            names.append(builder.input(f"in{index}", DType.of(array.dtype), (-1,) * array.ndim))
            feeds[f"in{index}"] = array
    results = builder.layers(kind, names, [(dtype, (-1,) * rank) for dtype, rank in outputs], **attributes)
    evaluated = ReferenceEvaluator(builder.output(*results)).run(feeds)
    arrays = [evaluated[name] for name in results]
    for array, (dtype, rank) in zip(arrays, outputs, strict=True):
        assert array.dtype == dtype.numpy
        assert array.ndim == rank
    return arrays


def evaluate(
    kind: str,
    *inputs: np.ndarray | None,
    rank: int | None = None,
    dtype: DType | None = None,
    constants: tuple[int, ...] = (),
    **attributes: Attribute,
) -> np.ndarray:
    """One layer with one output, by default of the first input's type and rank."""
    first = inputs[0]
    assert first is not None or (rank is not None and dtype is not None)
    if dtype is None:
        dtype = DType.of(first.dtype)
    return evaluate_all(kind, list(inputs), [(dtype, first.ndim if rank is None else rank)], constants, **attributes)[0]


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a Qwen2-like decoder."""

    hidden: int = 64
    intermediate: int = 160
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 97
    capacity: int = 48
    #: Of the weights. With 0.05 and a tied head the likeliest token is the last one again, with 0.3 it follows from all.
    scale: float = 0.05
    tied: bool = True
    #: That many ids, from 0 on, are never the likeliest.
    silent: int = 0

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


def decoder(shape: DecoderShape, dtype: DType, seed: int = 0) -> Network:
    """A decoder as the native backend lowers it: rotary tables, caches updated in place, LOWER_RIGHT attention.

    Inputs: input_ids i64 [B, S], position_ids i64 [B, S], write_indices i32 [B], past_{key,value}_i. Outputs: logits
    f32 [B, S, V] and present_{key,value}_i. The embedding is tied to the output projection.
    """
    rng, b, np_type = np.random.default_rng(seed), NetworkBuilder(), dtype.numpy
    h, d, heads, kv_heads = shape.hidden, shape.head_dim, shape.heads, shape.kv_heads

    def weight(*size: int, scale: float = shape.scale) -> np.ndarray:
        return (rng.standard_normal(size, np.float32) * np.float32(scale)).astype(np_type)

    def elementwise(op: str, x: str, y: str) -> str:
        kind, rank = b.network.tensors[x].dtype, len(b.network.tensors[x].shape)
        return b.layer("ELEMENTWISE", [x, y], kind, (-1,) * rank, op=op)

    def linear(x: str, w: np.ndarray, bias: np.ndarray | None = None) -> str:
        y = b.layer("MATRIX_MULTIPLY", [x, b.constant(w[None])], dtype, (-1, -1, len(w)), op0="NONE", op1="TRANSPOSE")
        return y if bias is None else elementwise("SUM", y, b.constant(bias[None, None]))

    def rms_norm(x: str) -> str:
        f = b.layer("CAST", [x], DType.FLOAT32, (-1, -1, h), to_type="float32")
        mean = b.layer(
            "REDUCE", [elementwise("PROD", f, f)], DType.FLOAT32, (-1, -1, 1), op="AVG", axes=4, keep_dims=True
        )
        mean = elementwise("SUM", mean, b.constant(np.full((1, 1, 1), 1e-6, np.float32)))
        root = b.layer("UNARY", [mean], DType.FLOAT32, (-1, -1, 1), op="SQRT")
        y = b.layer("CAST", [elementwise("DIV", f, root)], dtype, (-1, -1, h), to_type=dtype.value)
        return elementwise("PROD", y, b.constant(1 + weight(1, 1, h)))

    def split_heads(x: str, n: int) -> str:
        return b.layer(
            "SHUFFLE", [x], dtype, (-1, n, -1, d), reshape_dims=[0, 0, n, d],
            first_transpose=list(range(8)), second_transpose=[0, 2, 1, 3, 0, 0, 0, 0], zero_is_placeholder=True,
        )  # fmt: skip

    ids = b.input("input_ids", DType.INT64, (-1, -1))
    positions = b.input("position_ids", DType.INT64, (-1, -1))
    indices = b.input("write_indices", DType.INT32, (-1,))
    embedding = weight(shape.vocabulary, h, scale=0.5)
    table = b.constant(embedding, "embedding")
    angle = np.arange(shape.capacity)[:, None] * 10000.0 ** (-np.arange(0, d, 2) / d)
    cos, sin = b.constant(np.cos(angle).astype(np_type)), b.constant(np.sin(angle).astype(np_type))

    # key_value_lengths = write_indices + S
    size = b.layer("SHAPE", [ids], DType.INT64, (2,))
    length = b.layer("SLICE", [size], DType.INT64, (1,), start=[1], shape=[1], stride=[1], mode="STRICT_BOUNDS")
    length = b.layer("CAST", [length], DType.INT32, (1,), to_type="int32")
    lengths = elementwise("SUM", indices, length)

    x = b.layer("GATHER", [table, ids], dtype, (-1, -1, h), axis=0, mode="DEFAULT", num_elementwise_dims=0)
    presents = []
    for i in range(shape.layers):
        y = rms_norm(x)
        q = split_heads(linear(y, weight(heads * d, h), weight(heads * d)), heads)
        k = split_heads(linear(y, weight(kv_heads * d, h), weight(kv_heads * d)), kv_heads)
        v = split_heads(linear(y, weight(kv_heads * d, h), weight(kv_heads * d)), kv_heads)
        rotary = {"interleaved": False, "rotary_embedding_dim": 0}
        q = b.layer("ROTARY_EMBEDDING", [q, cos, sin, positions], dtype, (-1, heads, -1, d), **rotary)
        k = b.layer("ROTARY_EMBEDDING", [k, cos, sin, positions], dtype, (-1, kv_heads, -1, d), **rotary)
        for name, new in (("key", k), ("value", v)):
            cache_shape = (-1, kv_heads, shape.capacity, d)
            past = b.input(f"past_{name}_{i}", dtype, cache_shape)
            presents.append(
                b.layer("KV_CACHE_UPDATE", [past, new, indices], dtype, cache_shape,
                        cache_mode="LINEAR", update_form="PADDED_BHND")
            )  # fmt: skip
        q = elementwise("PROD", q, b.constant(np.full((1, 1, 1, 1), d**-0.5, np_type)))
        a = b.layer(
            "ATTENTION", [q, *presents[-2:], None, None, None, lengths], dtype, (-1, heads, -1, d),
            norm_op="SOFTMAX", causal_kind="LOWER_RIGHT", query_form="PADDED_BHND", key_value_form="PADDED_BHND",
        )  # fmt: skip
        a = b.layer(
            "SHUFFLE", [a], dtype, (-1, -1, h), first_transpose=[0, 2, 1, 3, 0, 0, 0, 0], reshape_dims=[0, 0, h],
            second_transpose=list(range(8)), zero_is_placeholder=True,
        )  # fmt: skip
        x = elementwise("SUM", x, linear(a, weight(h, heads * d)))
        y = rms_norm(x)
        gate = linear(y, weight(shape.intermediate, h))
        sigmoid = b.layer("ACTIVATION", [gate], dtype, (-1, -1, -1), type="SIGMOID", alpha=0.0, beta=0.0)
        gate = elementwise("PROD", elementwise("PROD", gate, sigmoid), linear(y, weight(shape.intermediate, h)))
        x = elementwise("SUM", x, linear(gate, weight(h, shape.intermediate)))
    head = embedding if shape.tied else weight(shape.vocabulary, h, scale=0.5)
    head[: shape.silent] = 0
    tied = b.constant(head, "embedding" if shape.tied else "head", (1, *head.shape))
    logits = b.layer(
        "MATRIX_MULTIPLY", [rms_norm(x), tied], dtype, (-1, -1, shape.vocabulary), op0="NONE", op1="TRANSPOSE"
    )
    logits = b.layer("CAST", [logits], DType.FLOAT32, (-1, -1, shape.vocabulary), to_type="float32")
    del b.network.tensors[logits]
    b.network.tensors["logits"] = Tensor("logits", DType.FLOAT32, (-1, -1, shape.vocabulary))
    b.network.layers[-1].outputs[0] = "logits"
    return b.output("logits", *presents)


def decoder_feeds(shape: DecoderShape, dtype: DType, batch: int = 1) -> dict[str, np.ndarray]:
    """Empty caches."""
    size = (batch, shape.kv_heads, shape.capacity, shape.head_dim)
    return {f"past_{n}_{i}": np.zeros(size, dtype.numpy) for i in range(shape.layers) for n in ("key", "value")}


def step_feeds(ids: np.ndarray, past: np.ndarray | int) -> dict[str, np.ndarray]:
    """Feeds of one call for ``ids`` [B, S] after ``past`` tokens in each row."""
    start = np.broadcast_to(np.asarray(past, np.int32), len(ids))
    positions = start[:, None].astype(np.int64) + np.arange(ids.shape[1])
    return {"input_ids": ids.astype(np.int64), "position_ids": positions, "write_indices": start.copy()}
