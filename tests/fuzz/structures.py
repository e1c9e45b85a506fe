"""Mutations of a network's structure: what somebody would write who knows the format. Functions of a seed, as all are."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

Data = dict[str, Any]

SIZES = [0, 1, 2, 3, 7, 48, 255, 10**6, 2**31 - 1, 2**31, 2**40, 2**47, -1, -2]
NUMBERS = [*SIZES, 2**63, -(2**63), 2**64, 10**30, 0.5, 1e-40, 1e38, 1e308]
DTYPES = [
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float4_e2m1fn",
    "int64",
    "int32",
    "int8",
    "int4",
    "uint8",
    "bool",
]
NAMES = ["", "x", "é", "e\u0301", "a\nb", "\x1b[2J", "weights.safetensors", "x" * 5_000, "__padding__0"]
VALUES: list[Any] = [None, True, False, "", "SUM", [], [[]], {}, {"a": 1}, [1], [0] * 9, ["a"], [None], *NUMBERS]


def swap_inputs(r: Random, data: Data) -> None:
    """Two layers read each other's inputs: wrong shapes, types, or not made yet."""
    one, other = (_layer(r, data) for _ in range(2))
    if one[2] and other[2]:
        i, j = r.randrange(len(one[2])), r.randrange(len(other[2]))
        one[2][i], other[2][j] = other[2][j], one[2][i]


def read_anything(r: Random, data: Data) -> None:
    """A layer reads some tensor: a later one, its own, one that is not there."""
    layer = _layer(r, data)
    name = r.choice([*data["tensors"], *layer[3], "nothing", "", None])
    if layer[2] and r.random() < 0.7:
        layer[2][r.randrange(len(layer[2]))] = name
    else:
        layer[2].append(name)


def cycle(r: Random, data: Data) -> None:
    """A layer reads what a later one makes."""
    layers = data["layers"]
    early, late = sorted(r.sample(range(len(layers)), 2))
    if layers[early][2] and layers[late][3]:
        layers[early][2][r.randrange(len(layers[early][2]))] = r.choice(layers[late][3])


def change_arity(r: Random, data: Data) -> None:
    layer = _layer(r, data)
    names = layer[r.choice([2, 3])]
    match r.randrange(3):
        case 0 if names:
            names.pop(r.randrange(len(names)))
        case 1:
            names.extend(names or ["x"])
        case _:
            names[:] = names[:1] * r.choice([0, 2, 100])


def change_kind(r: Random, data: Data) -> None:
    """A layer is of another kind, with the attributes and inputs of its own."""
    _layer(r, data)[1] = r.choice([*{layer[1] for layer in data["layers"]}, *EXTRA_KINDS])


def swap_attributes(r: Random, data: Data) -> None:
    one, other = (_layer(r, data) for _ in range(2))
    one[4], other[4] = other[4], one[4]


def change_attribute(r: Random, data: Data) -> None:
    layer = _layer(r, data, with_attributes=True)
    if not layer[4]:
        return
    key = r.choice(list(layer[4]))
    value = layer[4][key]
    if isinstance(value, list) and value and r.random() < 0.6:
        value[r.randrange(len(value))] = r.choice(NUMBERS)
    elif isinstance(value, list) and r.random() < 0.5:
        layer[4][key] = r.choice([value * 2, value[:-1], value[::-1], value * 1000])
    elif r.random() < 0.3:
        del layer[4][key]
    elif r.random() < 0.3:
        layer[4][r.choice(NAMES)] = layer[4].pop(key)
    else:
        layer[4][key] = r.choice(VALUES if r.random() < 0.5 else NUMBERS)


def change_tensor(r: Random, data: Data) -> None:
    name = r.choice(list(data["tensors"]))
    tensor = data["tensors"][name]
    match r.randrange(5):
        case 0:
            tensor[0] = r.choice(DTYPES)
        case 1 if tensor[1]:
            tensor[1][r.randrange(len(tensor[1]))] = r.choice(SIZES)
        case 2:
            tensor[1] = r.choice([tensor[1] * 2, tensor[1][:-1], tensor[1][::-1], [], [1] * 9, [2**31] * 8])
        case 3:
            tensor[:] = data["tensors"][r.choice(list(data["tensors"]))]
        case _:
            data["tensors"][r.choice(NAMES)] = data["tensors"].pop(name)


def change_interface(r: Random, data: Data) -> None:
    """Inputs and outputs are dropped, doubled, swapped, or other tensors."""
    names = data[r.choice(["inputs", "outputs"])]
    match r.randrange(4):
        case 0 if names:
            names.pop(r.randrange(len(names)))
        case 1:
            names.append(r.choice(list(data["tensors"])))
        case 2:
            r.shuffle(names)
        case _:
            names.extend(names)


def change_layers(r: Random, data: Data) -> None:
    """Layers are dropped, doubled or moved."""
    layers = data["layers"]
    at = r.randrange(len(layers))
    match r.randrange(4):
        case 0 if len(layers) > 1:
            del layers[at]
        case 1:
            layers.insert(r.randrange(len(layers)), json.loads(json.dumps(layers[at])))
        case 2:
            layers.insert(r.randrange(len(layers)), layers.pop(at))
        case _:
            layers[at][0] = r.choice([r.choice(layers)[0], *NAMES])


def alias_weights(r: Random, data: Data) -> None:
    """A constant reads another one's weight, or one that is not there."""
    constants = [layer for layer in data["layers"] if "weights" in layer[4]]
    if constants:
        r.choice(constants)[4]["weights"] = r.choice([*(c[4]["weights"] for c in constants), *NAMES])


MUTATIONS: list[Callable[[Random, Data], None]] = [
    swap_inputs, read_anything, cycle, change_arity, change_kind, swap_attributes, change_attribute, change_attribute,
    change_attribute, change_tensor, change_tensor, change_interface, change_layers, alias_weights,
]  # fmt: skip

#: Kinds that the mutated network may lack, and some that no network has.
EXTRA_KINDS = [
    "ACTIVATION", "CAST", "CONVOLUTION", "CUMULATIVE", "DEQUANTIZE", "EINSUM", "FILL", "IDENTITY", "NON_ZERO", "ONE_HOT",
    "POOLING", "QUANTIZE", "RESIZE", "SCATTER", "TOPK", "PLUGIN_V2", "PLUGIN_V3", "ATTENTION", "CONSTANT", "LOOP", "", "x",
]  # fmt: skip


def mutated_network(content: bytes, seed: int, count: int) -> bytes:
    """``network.json`` with ``count`` mutations of its structure."""
    random, data = Random(seed), json.loads(content)
    for _ in range(count):
        random.choice(MUTATIONS)(random, data)
    return json.dumps(data).encode()


def _layer(r: Random, data: Data, *, with_attributes: bool = False) -> list[Any]:
    layers = [layer for layer in data["layers"] if layer[4]] if with_attributes else data["layers"]
    found: list[Any] = r.choice(layers or data["layers"])
    return found
