"""The floor of compile cost: a Qwen2-like decoder written by hand on TensorRT's network API, with its KV cache.

One architecture, no exporter, no checkpoint: a baseline for layers, time and memory, not a product.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def build_floor(shape: dict[str, int], capacity: int, profiles: int = 1) -> dict[str, int]:
    """Build an SM89 engine of the given shape; returns its layer count and size in MB.

    With two ``profiles``, the second one is for up to 4 tokens, as tt-edge's generation profile is.
    """
    import tensorrt_rtx as trt

    floor = _Floor(trt, shape, capacity)
    logits = floor.network_of()
    logits.name = "logits"
    floor.n.mark_output(logits)
    for present in floor.presents:
        floor.n.mark_output(present)
    engine = floor.builder.build_serialized_network(floor.n, floor.config(profiles))
    return {"layers": floor.n.num_layers, "engine_mb": engine.nbytes >> 20}


class _Floor:
    def __init__(self, trt: Any, shape: dict[str, int], capacity: int) -> None:
        self.trt, self.shape, self.capacity = trt, shape, capacity
        self.width, self.heads = shape["hidden_size"], shape["num_attention_heads"]
        self.kv_heads, self.dim = shape["num_key_value_heads"], shape["hidden_size"] // shape["num_attention_heads"]
        self.builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        self.n = self.builder.create_network()
        self.rng, self.keep, self.presents = np.random.default_rng(0), [], []
        self.ids = self.n.add_input("input_ids", trt.int64, (-1, -1))
        self.positions = self.n.add_input("position_ids", trt.int64, (-1, -1))
        self.write_indices = self.n.add_input("write_indices", trt.int32, (-1,))
        self.lengths = self.n.add_input("kv_lengths", trt.int32, (-1,))
        self.tables = [self.random(capacity, self.dim // 2) for _ in range(2)]

    def constant(self, array: np.ndarray) -> Any:
        self.keep.append(array)
        return self.n.add_constant(array.shape, self.trt.Weights(array)).get_output(0)

    def random(self, *sizes: int) -> Any:
        return self.constant((self.rng.standard_normal(sizes, dtype=np.float32) * 0.02).astype(np.float16))

    def linear(self, x: Any, out: int, bias: bool = False, weight: Any = None) -> Any:
        none, transpose = self.trt.MatrixOperation.NONE, self.trt.MatrixOperation.TRANSPOSE
        matrix = self.random(1, out, x.shape[2]) if weight is None else weight
        y = self.n.add_matrix_multiply(x, none, matrix, transpose).get_output(0)
        return self.binary(y, self.random(1, 1, out), "SUM") if bias else y

    def binary(self, a: Any, b: Any, op: str) -> Any:
        return self.n.add_elementwise(a, b, getattr(self.trt.ElementWiseOperation, op)).get_output(0)

    def norm(self, x: Any) -> Any:
        trt, n = self.trt, self.n
        wide = n.add_cast(x, trt.float32).get_output(0)
        mean = n.add_reduce(self.binary(wide, wide, "PROD"), trt.ReduceOperation.AVG, 1 << 2, True).get_output(0)
        total = self.binary(mean, self.constant(np.full((1, 1, 1), 1e-6, np.float32)), "SUM")
        root = n.add_unary(total, trt.UnaryOperation.SQRT).get_output(0)
        half = n.add_cast(self.binary(wide, root, "DIV"), trt.float16).get_output(0)
        return self.binary(half, self.random(1, 1, self.width), "PROD")

    def split(self, x: Any, heads: int) -> Any:
        layer = self.n.add_shuffle(x)
        layer.reshape_dims, layer.second_transpose = (0, 0, heads, self.dim), (0, 2, 1, 3)
        return layer.get_output(0)

    def rotate(self, x: Any) -> Any:
        layer = self.n.add_rotary_embedding(x, *self.tables, False, 0)
        layer.set_input(3, self.positions)
        return layer.get_output(0)

    def cache(self, name: str, update: Any) -> Any:
        trt = self.trt
        past = self.n.add_input(f"past_{name}", trt.float16, (-1, self.kv_heads, self.capacity, self.dim))
        layer = self.n.add_kv_cache_update(past, update, self.write_indices, trt.KVCacheMode.LINEAR)
        layer.get_output(0).name = f"present_{name}"
        self.presents.append(layer.get_output(0))
        return layer.get_output(0)

    def attention(self, h: Any, index: int) -> Any:
        trt, kv_width = self.trt, self.kv_heads * self.dim
        query = self.rotate(self.split(self.linear(h, self.width, bias=True), self.heads))
        key = self.cache(f"key_{index}", self.rotate(self.split(self.linear(h, kv_width, bias=True), self.kv_heads)))
        value = self.cache(f"value_{index}", self.split(self.linear(h, kv_width, bias=True), self.kv_heads))
        scaled = self.binary(query, self.constant(np.full((1, 1, 1, 1), self.dim**-0.5, np.float16)), "PROD")
        layer = self.n.add_attention_v2(
            scaled, key, value, trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.LOWER_RIGHT
        )
        layer.key_value_lengths, layer.decomposable = self.lengths, True
        merged = self.n.add_shuffle(layer.get_output(0))
        merged.first_transpose, merged.reshape_dims = (0, 2, 1, 3), (0, 0, self.width)
        return self.linear(merged.get_output(0), self.width)

    def mlp(self, h: Any) -> Any:
        inner = self.shape["intermediate_size"]
        gate = self.linear(h, inner)
        sigmoid = self.n.add_activation(gate, self.trt.ActivationType.SIGMOID).get_output(0)
        return self.linear(self.binary(self.binary(gate, sigmoid, "PROD"), self.linear(h, inner), "PROD"), self.width)

    def network_of(self) -> Any:
        """All layers; returns the logits of every token."""
        table = self.random(self.shape["vocab_size"], self.width)
        x = self.n.add_gather(table, self.ids, 0).get_output(0)
        for index in range(self.shape["num_hidden_layers"]):
            x = self.binary(x, self.attention(self.norm(x), index), "SUM")
            x = self.binary(x, self.mlp(self.norm(x)), "SUM")
        head = self.n.add_constant((1, *table.shape), self.trt.Weights(self.keep[2])).get_output(0)
        return self.linear(self.norm(x), table.shape[0], weight=head)

    def config(self, profiles: int) -> Any:
        config = self.builder.create_builder_config()
        for tokens in ((1, 128, self.capacity), (1, 1, 4))[:profiles]:
            profile = self.builder.create_optimization_profile()
            for i in range(self.n.num_inputs):
                name, dims = self.n.get_input(i).name, tuple(self.n.get_input(i).shape)
                if len(dims) == 2:
                    profile.set_shape(name, *((1, count) for count in tokens))
                else:
                    fixed = (1, *dims[1:])
                    profile.set_shape(name, fixed, fixed, fixed)
            config.add_optimization_profile(profile)
        config.num_compute_capabilities = 1
        config.set_compute_capability(self.trt.ComputeCapability.SM89, 0)
        return config
