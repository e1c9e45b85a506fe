"""Checking that contract, network and limits of a bundle are consistent, before any size in them is used. Torch-free.

A contract gives the sizes of buffers and the location of a slot's keys and values in them. If the cache were smaller than
the contract's own limits, a copy would run past its end; so a bundle opens only if the three agree.
"""

from __future__ import annotations

import math

from tt_edge.contract import BATCH, LOG_SUM_EXP, TOP_IDS, TOP_LOGITS, TOP_OUTPUTS, IOContract, TensorSpec
from tt_edge.dtypes import DType
from tt_edge.errors import BundleError
from tt_edge.network.ir import Network, Tensor
from tt_edge.network.validate import MAX_SIZE

#: Maximum number of elements of one input or output. A layer's keys for 64 slots of 128 Ki tokens have 2^33.
MAX_ELEMENTS = 1 << 36


def check_contract(part: str, contract: IOContract) -> None:
    """Raise ``BundleError`` for a contract whose tensors, cache and limits are inconsistent."""
    names = [spec.name for spec in (*contract.inputs, *contract.outputs)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        _refuse(part, f"it has {twice[:80]!r} twice")
    if not contract.inputs or not contract.outputs:
        _refuse(part, "it has no inputs or no outputs")
    try:
        largest = contract.largest
        if too_large := next((name for name, size in largest.items() if not 0 <= size <= MAX_SIZE), None):
            _refuse(part, f"{too_large} may be {largest[too_large]}")
        for spec in (*contract.inputs, *contract.outputs):
            shape = spec.resolve(**largest)
            if any(size > MAX_SIZE for size in shape) or math.prod(shape) > MAX_ELEMENTS:
                _refuse(part, f"{spec.name[:80]!r} has up to {math.prod(shape):,} elements")
        contract.profiles()
    except (KeyError, ZeroDivisionError) as error:
        _refuse(part, f"a dimension {error} cannot be computed")
    _check_cache(part, contract)
    for spec in contract.outputs:
        if spec.name == "logits" and not (spec.shape and isinstance(spec.shape[-1], int)):
            _refuse(part, f"its logits are {_text(spec)}")
    _check_top_logits(part, contract)


def _check_top_logits(part: str, contract: IOContract) -> None:
    """Check that the largest logits have their ids and log-sum-exp, of one size: the runtime copies them as one block."""
    outputs = {spec.name: spec for spec in contract.outputs if spec.name in TOP_OUTPUTS}
    if not outputs:
        return
    count = outputs[TOP_LOGITS].shape[-1:] if TOP_LOGITS in outputs else ()
    wanted = {
        TOP_LOGITS: (DType.FLOAT32, (BATCH, *count)),
        TOP_IDS: (DType.INT32, (BATCH, *count)),
        LOG_SUM_EXP: (DType.FLOAT32, (BATCH,)),
    }
    found = {name: (spec.dtype, spec.shape) for name, spec in outputs.items()}
    logits = next((spec for spec in contract.outputs if spec.name == "logits"), None)
    sizes = [spec.shape[-1] for spec in (logits, outputs.get(TOP_LOGITS)) if spec is not None and spec.shape]
    are_sizes = len(sizes) == 2 and all(isinstance(size, int) for size in sizes)
    if found != wanted or not are_sizes or not 2 <= sizes[1] <= sizes[0]:  # type: ignore[operator]
        _refuse(part, f"its largest logits are {', '.join(map(_text, outputs.values()))}")


def _check_cache(part: str, contract: IOContract) -> None:
    if max(contract.max_batch, contract.max_seq_len) > MAX_SIZE or contract.max_input_len > contract.max_seq_len:
        _refuse(part, f"its limits are {contract.max_batch}, {contract.max_input_len}, {contract.max_seq_len}")
    inputs = {spec.name: spec for spec in contract.inputs}
    outputs = {spec.name: spec for spec in contract.outputs}
    pasts, presents = [pair.past for pair in contract.kv_cache], [pair.present for pair in contract.kv_cache]
    if len(set(pasts)) != len(pasts) or len(set(presents)) != len(presents):
        _refuse(part, "a cache tensor is in two pairs")
    for pair in contract.kv_cache:
        past, present = inputs.get(pair.past), outputs.get(pair.present)
        if past is None or present is None:
            _refuse(part, f"the cache {pair.past[:80]!r} and {pair.present[:80]!r} is not among its inputs and outputs")
            return
        if past.dtype is not present.dtype or past.shape != present.shape:
            _refuse(part, f"the cache {past.name!r} goes in as {_text(past)} and comes out as {_text(present)}")
        if _capacity(past, contract.max_batch) < contract.max_seq_len:
            _refuse(
                part,
                f"the cache {past.name!r}, {_text(past)}, has no room for max_seq_len {contract.max_seq_len} tokens",
            )


def _capacity(spec: TensorSpec, max_batch: int) -> int:
    """The capacity of a cache tensor in tokens per slot; see ``runtime/engine/kv_rows.py`` for the two layouts."""
    shape = spec.shape
    if len(shape) >= 3 and shape[0] == BATCH and isinstance(shape[-2], int):
        return shape[-2]
    if len(shape) == 5 and isinstance(shape[1], int) and isinstance(shape[2], int) and shape[1] % max_batch == 0:
        return shape[1] // max_batch * shape[2]
    return 0


def check_network(part: str, network: Network, contract: IOContract) -> None:
    """Raise ``BundleError`` unless the network's inputs and outputs are those of the contract."""
    for what, names, specs in (
        ("inputs", network.inputs, contract.inputs),
        ("outputs", network.outputs, contract.outputs),
    ):
        if set(names) != {spec.name for spec in specs}:
            strange = sorted(set(names) ^ {spec.name for spec in specs})
            _refuse(part, f"its network has other {what}: {', '.join(name[:80] for name in strange[:4])}")
        for spec in specs:
            tensor = network.tensors[spec.name]
            if tensor.dtype is not spec.dtype or not _fits(tensor, spec):
                _refuse(part, f"{spec.name!r} is {_text(spec)}, and {tensor.dtype} {list(tensor.shape)} in the network")
    _check_aliases(part, network, contract)
    if contract.geometry is None:
        _check_tables(part, network, contract.max_seq_len)


def _fits(tensor: Tensor, spec: TensorSpec) -> bool:
    return len(tensor.shape) == len(spec.shape) and all(
        isinstance(wanted, str) or size in (-1, wanted) for size, wanted in zip(tensor.shape, spec.shape, strict=True)
    )


def _check_aliases(part: str, network: Network, contract: IOContract) -> None:
    """Check that every tensor that a layer updates in place is a cache of the contract."""
    pairs = {(pair.past, pair.present) for pair in contract.kv_cache}
    for layer in network.layers:
        if layer.kind == "KV_CACHE_UPDATE" and (layer.inputs[0], layer.outputs[0]) not in pairs:
            _refuse(part, f"layer {layer.name[:80]!r} updates {layer.inputs[0]!r} in place, which is no cache")


def _check_tables(part: str, network: Network, max_seq_len: int) -> None:
    """Check that rotary tables hold all positions: a GPU does not check the index of a lookup."""
    for layer in network.layers:
        if layer.kind == "ROTARY_EMBEDDING" and len(layer.inputs) == 4 and layer.inputs[3] is not None:
            for name in layer.inputs[1:3]:
                shape = network.tensors[str(name)].shape
                if len(shape) == 2 and -1 < shape[0] < max_seq_len:
                    _refuse(
                        part, f"layer {layer.name[:80]!r} has a table of {shape[0]} positions, fewer than {max_seq_len}"
                    )


def _text(spec: TensorSpec) -> str:
    return f"{spec.dtype} {list(spec.shape)}"


def _refuse(part: str, why: str) -> None:
    raise BundleError(f"the bundle's {part} is not what its contract says ({why}); copy the bundle again")
