"""A small decoder in the captured form, and its contract."""

from __future__ import annotations

from tests.network.reference.building import DecoderShape, decoder
from tt_edge.config import Limits
from tt_edge.contract import BATCH, SEQUENCE, TWO_PROFILES, IOContract, KVPair, TensorSpec
from tt_edge.dtypes import DType
from tt_edge.network.ir import Network

SHAPE = DecoderShape(capacity=48)


def compiled(
    max_batch: int = 3, max_input_len: int = 8, shape: DecoderShape = SHAPE, dtype: DType = DType.FLOAT32
) -> tuple[Network, IOContract]:
    """A network with all tokens' logits, and what the compiler would say about it."""
    network = decoder(shape, dtype)
    pasts = [name for name in network.inputs if name.startswith("past_")]
    cache = (BATCH, shape.kv_heads, shape.capacity, shape.head_dim)
    for old, past in zip(network.outputs[1:], pasts, strict=True):
        rename_output(network, old, past.replace("past", "present"))
    presents = network.outputs[1:]
    return network, IOContract(
        inputs=(
            TensorSpec("input_ids", DType.INT64, (BATCH, SEQUENCE)),
            TensorSpec("position_ids", DType.INT64, (BATCH, SEQUENCE)),
            TensorSpec("write_indices", DType.INT32, (BATCH,)),
            *(TensorSpec(name, dtype, cache) for name in pasts),
        ),
        outputs=(
            TensorSpec("logits", DType.FLOAT32, (BATCH, SEQUENCE, shape.vocabulary)),
            *(TensorSpec(name, dtype, cache) for name in presents),
        ),
        limits=Limits(max_batch=max_batch, max_input_len=max_input_len, max_seq_len=shape.capacity),
        phases=TWO_PROFILES,
        kv_cache=tuple(KVPair(*pair) for pair in zip(pasts, presents, strict=True)),
    )


def rename_output(network: Network, old: str, new: str) -> None:
    tensor = network.tensors.pop(old)
    network.tensors[new] = type(tensor)(new, tensor.dtype, tensor.shape)
    network.outputs = [new if name == old else name for name in network.outputs]
    for layer in network.layers:
        layer.inputs = [new if name == old else name for name in layer.inputs]
        layer.outputs = [new if name == old else name for name in layer.outputs]
