from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from building import DecoderShape, NetworkBuilder, decoder, decoder_feeds, step_feeds
from oracle import to_torch, torch

from tt_edge.dtypes import DType
from tt_edge.errors import BundleError, InvalidInputError, UnsupportedModelError
from tt_edge.network.reference import ReferenceEvaluator

SHAPE = DecoderShape()
TOLERANCE = {DType.FLOAT32: 2e-5, DType.FLOAT16: 5e-3, DType.BFLOAT16: 4e-2}


def decoder_in_torch(network, shape: DecoderShape, dtype: DType, ids: np.ndarray) -> torch.Tensor:
    """The decoder in float64, written from the model's definition; weights are taken in the order of creation."""
    weights = (to_torch(network.weights[layer.attributes["weights"]], True) for layer, _ in network.constants())
    table, cos, sin = (next(weights) for _ in range(3))
    batch, length = ids.shape
    d, groups = shape.head_dim, shape.heads // shape.kv_heads

    def norm(x):
        epsilon, gain = next(weights), next(weights)
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + epsilon) * gain

    def linear(x, bias=False):
        y = x @ next(weights)[0].T
        return y + next(weights) if bias else y

    def heads(x, n):
        return x.reshape(batch, length, n, d).transpose(1, 2)

    def rope(x):
        a, b = x.chunk(2, -1)
        c, s = cos[:length], sin[:length]
        return torch.cat([a * c - b * s, b * c + a * s], -1)

    x = table[torch.from_numpy(ids)]
    for _ in range(shape.layers):
        y = norm(x)
        q = rope(heads(linear(y, True), shape.heads))
        k, v = rope(heads(linear(y, True), shape.kv_heads)), heads(linear(y, True), shape.kv_heads)
        q = q * next(weights)
        k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
        scores = (q @ k.mT).masked_fill(~torch.ones(length, length).tril().bool(), -torch.inf)
        x = x + linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, -1))
        y = norm(x)
        gate = torch.nn.functional.silu(linear(y))
        x = x + linear(gate * linear(y))
    projection = next(weights)
    return norm(x) @ projection.T


@pytest.fixture(scope="module", params=[DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16], ids=lambda d: d.value)
def model(request):
    network = decoder(SHAPE, request.param)
    return network, ReferenceEvaluator(network), request.param


def relative(value, reference) -> float:
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def test_decoder_matches_pytorch(rng, model):
    network, evaluator, dtype = model
    ids = rng.integers(0, SHAPE.vocabulary, (2, 9))
    logits = evaluator.run(decoder_feeds(SHAPE, dtype, 2) | step_feeds(ids, 0))["logits"]
    assert logits.dtype == np.float32
    assert relative(logits, decoder_in_torch(network, SHAPE, dtype, ids).numpy()) < TOLERANCE[dtype]


def test_chunked_prefill_and_decode_equal_whole_prefill(rng, model):
    _, evaluator, dtype = model
    ids = rng.integers(0, SHAPE.vocabulary, (2, 12))
    whole_caches, caches = decoder_feeds(SHAPE, dtype, 2), decoder_feeds(SHAPE, dtype, 2)
    whole = evaluator.run(whole_caches | step_feeds(ids, 0))["logits"]
    parts, past = [], 0
    for size in (5, 4, 1, 1, 1):
        parts.append(evaluator.run(caches | step_feeds(ids[:, past : past + size], past))["logits"])
        past += size
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=TOLERANCE[dtype] * np.abs(whole).max())
    for name, cache in caches.items():
        limit = TOLERANCE[dtype] * np.abs(whole_caches[name]).max()
        np.testing.assert_allclose(cache.astype(np.float32), whole_caches[name].astype(np.float32), atol=limit)


def test_right_padded_rows_decode_as_if_alone(rng, model):
    """Rows of lengths 7 and 4, padded to 7: padding is written behind the row and overwritten by its next token."""
    _, evaluator, dtype = model
    ids, lengths = rng.integers(0, SHAPE.vocabulary, (2, 8)), np.array([7, 4])
    caches = decoder_feeds(SHAPE, dtype, 2)
    evaluator.run(caches | step_feeds(ids[:, :7], 0))
    following = ids[:, 7:]
    together = evaluator.run(caches | step_feeds(following, lengths))["logits"]
    for row, length in enumerate(lengths):
        alone = decoder_feeds(SHAPE, dtype)
        evaluator.run(alone | step_feeds(ids[row : row + 1, :length], 0))
        expected = evaluator.run(alone | step_feeds(following[row : row + 1], length))["logits"]
        np.testing.assert_allclose(together[row], expected[0], atol=TOLERANCE[dtype] * np.abs(expected).max())


def test_caches_are_updated_in_place_and_returned(model):
    _, evaluator, dtype = model
    caches = decoder_feeds(SHAPE, dtype)
    outputs = evaluator.run(caches | step_feeds(np.array([[1, 2]]), 0))
    presents = [value for name, value in outputs.items() if name != "logits"]
    for past, present in zip(caches.values(), presents, strict=True):
        assert present is past
        assert past[:, :, :2].any()
        assert not past[:, :, 2:].any()


def test_observer_sees_each_layer_in_order_with_the_declared_type_and_rank(model):
    network, evaluator, dtype = model
    seen = []

    def observe(layer, name, value):
        tensor = network.tensors[name]
        assert value.dtype == tensor.dtype.numpy
        assert len(value.shape) == len(tensor.shape)
        assert all(want in (-1, have) for want, have in zip(tensor.shape, value.shape, strict=True))
        seen.append(layer.name)

    evaluator.run(decoder_feeds(SHAPE, dtype) | step_feeds(np.array([[3]]), 0), observe=observe)
    assert seen == [layer.name for layer in network if layer.kind != "CONSTANT"]


def test_intermediate_values_are_freed(model):
    """At most a few activations of a long prompt are alive at once."""
    import tracemalloc

    _, evaluator, dtype = model
    feeds = decoder_feeds(SHAPE, dtype) | step_feeds(np.ones((1, SHAPE.capacity), int), 0)
    evaluator.run(feeds)
    tracemalloc.start()
    evaluator.run(feeds)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one = SHAPE.capacity * SHAPE.intermediate * 4
    assert peak < 12 * one


def small_network():
    builder = NetworkBuilder()
    x = builder.input("x", DType.FLOAT32, (-1, 3))
    y = builder.layer(
        "ELEMENTWISE", [x, builder.constant(np.ones((1, 3), np.float32))], DType.FLOAT32, (-1, 3), op="SUM"
    )
    return builder.output(y)


GOOD = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"input 'x' is missing; pass a float32 array of shape \(-1, 3\)"),
        ({"x": GOOD.astype(np.float64)}, "input 'x' is float64; convert it to a NumPy array of float32"),
        ({"x": GOOD.tolist()}, "input 'x' is list; convert"),
        ({"x": GOOD[0]}, r"input 'x' has shape \(3,\); the network needs \(-1, 3\)"),
        ({"x": GOOD.T}, r"input 'x' has shape \(3, 2\)"),
        ({"x": GOOD, "z": GOOD}, "'z' is not an input of the network; it has x"),
    ],
)
def test_feeds_are_checked(feeds, message):
    with pytest.raises(InvalidInputError, match=message):
        ReferenceEvaluator(small_network()).run(feeds)


def test_unsupported_kind_is_named_at_construction():
    builder = NetworkBuilder()
    y = builder.layer("GRID_SAMPLE", [builder.input("x", DType.FLOAT32, (2,))], DType.FLOAT32, (2,))
    with pytest.raises(UnsupportedModelError, match="layer 'grid_sample_0' is a GRID_SAMPLE"):
        ReferenceEvaluator(builder.output(y))


def test_missing_and_misshapen_weights_are_named():
    network = small_network()
    network.weights["w0"] = np.ones(4, np.float32)
    with pytest.raises(BundleError, match=r"weight 'w0' holds 4 elements of float32, not float32 of shape \(1, 3\)"):
        ReferenceEvaluator(network)
    network.weights.clear()
    with pytest.raises(BundleError, match="constant 'constant_0' lacks its weight 'w0'"):
        ReferenceEvaluator(network)


def test_shape_errors_name_the_layer():
    builder = NetworkBuilder()
    a, b = (builder.input(n, DType.FLOAT32, (-1,)) for n in "ab")
    y = builder.layer("ELEMENTWISE", [a, b], DType.FLOAT32, (-1,), op="SUM")
    with pytest.raises(InvalidInputError, match=r"layer 'elementwise_0' .* shape \(2,\), \(3,\)"):
        ReferenceEvaluator(builder.output(y)).run({"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)})


@pytest.mark.parametrize("fold", [True, False])
def test_folding_changes_only_when_layers_run(rng, fold):
    builder = NetworkBuilder()
    x = builder.input("x", DType.FLOAT16, (-1,))
    c = builder.constant(rng.standard_normal(5).astype(np.float16))
    doubled = builder.layer("ELEMENTWISE", [c, c], DType.FLOAT16, (5,), op="SUM")
    y = builder.layer("ELEMENTWISE", [x, doubled], DType.FLOAT16, (5,), op="PROD")
    network = builder.output(y, doubled)
    seen = []
    outputs = ReferenceEvaluator(network, fold_constants=fold).run(
        {"x": np.ones(5, np.float16)}, observe=lambda layer, name, value: seen.append(name)
    )
    np.testing.assert_array_equal(outputs[y], 2 * network.weights["w0"])
    np.testing.assert_array_equal(outputs[doubled], outputs[y])
    assert seen == ([y] if fold else [doubled, y])


def test_outputs_own_their_memory():
    builder = NetworkBuilder()
    x = builder.input("x", DType.FLOAT32, (4,))
    y = builder.layer("SHUFFLE", [x], DType.FLOAT32, (2, 2), reshape_dims=[2, 2])
    feeds = {"x": np.zeros(4, np.float32)}
    output = ReferenceEvaluator(builder.output(y)).run(feeds)[y]
    feeds["x"][:] = 1
    assert not output.any()
    output[:] = 2


def test_runs_without_torch():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'tensorrt', 'tensorrt_rtx', 'transformers', 'scipy')));"
        "import tt_edge.network.reference, tt_edge.network.reference.compare"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
