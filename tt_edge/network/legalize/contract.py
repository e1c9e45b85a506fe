"""What an engine in one form takes and gives, where that differs from the bundle's contract."""

from __future__ import annotations

from dataclasses import replace

from tt_edge.contract import GENERATION_TOKENS, IOContract
from tt_edge.network.ir import Network
from tt_edge.network.legalize.legalize import Form
from tt_edge.network.legalize.plain_attention import scores_bytes
from tt_edge.tensorrt_features import ATTENTION

#: Bytes that the scores of one attention may take where they are tensors of the network: matrix multiplies around a softmax.
#: A prompt's calls are made as narrow as that: prompts longer than a call go in pieces.
SCORES_LIMIT = 1 << 30


def widest_call(contract: IOContract, form: Form, network: Network) -> int:
    """Most new tokens a slot in one call of an engine in ``form``; ``network`` is the captured one."""
    if ATTENTION not in form.replaced or not contract.kv_cache:
        return contract.max_input_len
    heads = max(network.tensors[str(layer.inputs[0])].shape[1] for layer in network.layers if layer.kind == "ATTENTION")
    width = SCORES_LIMIT // (contract.max_batch * scores_bytes(heads, contract.max_seq_len))
    return min(contract.max_input_len, max(width // 16 * 16, 16, GENERATION_TOKENS))


def in_form(contract: IOContract, form: Form, max_input_len: int = 0) -> IOContract:
    """``contract`` as an engine in ``form`` has it: whether the cache is updated in place, and how wide a call is.

    ``max_input_len`` 0 leaves the contract's.
    """
    limits = replace(contract.limits, max_input_len=max_input_len or contract.limits.max_input_len)
    return replace(contract, kv_in_place=contract.kv_in_place and form.in_place, limits=limits)
