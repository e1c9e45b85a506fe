"""The contract of an engine in one form, where it differs from the bundle's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from tt_edge.contract import GENERATION_TOKENS, IOContract
from tt_edge.network.ir import Network
from tt_edge.network.legalize.legalize import Form
from tt_edge.network.legalize.plain_attention import scores_bytes
from tt_edge.tensorrt_features import ATTENTION

#: Maximum bytes of the scores of one attention if they are tensors of the network: matrix multiplies around a softmax.
#: This limits the tokens per call: longer prompts are processed in chunks.
SCORES_LIMIT = 1 << 30


def widest_call(contract: IOContract, form: Form, network: Network) -> int:
    """The maximum number of new tokens per slot in one call of an engine in ``form``; ``network`` is the captured one."""
    heads = max(_heads_with_scores(network, form), default=0)
    if not heads or not contract.kv_cache:
        return contract.max_input_len
    width = SCORES_LIMIT // (contract.max_batch * scores_bytes(heads, contract.max_seq_len))
    return min(contract.max_input_len, max(width // 16 * 16, 16, GENERATION_TOKENS))


def _heads_with_scores(network: Network, form: Form) -> Iterator[int]:
    """The query heads of each attention whose scores are tensors: in this form, or as captured, such as Gemma 2's capped ones."""
    for layer in network.layers:
        shape = network.tensors[str(layer.inputs[0])].shape if layer.inputs and layer.inputs[0] else ()
        if layer.kind == "ATTENTION" and ATTENTION in form.replaced:
            yield shape[1]
        elif layer.kind == "SOFTMAX" and len(shape) >= 4:
            yield math.prod(shape[1:-2])  # [batch, heads, or groups of them, queries, keys]


def in_form(contract: IOContract, form: Form, max_input_len: int = 0) -> IOContract:
    """``contract`` for an engine in ``form``: sets whether the cache is updated in place, and the tokens per call.

    ``max_input_len`` 0 keeps the contract's.
    """
    limits = replace(contract.limits, max_input_len=max_input_len or contract.limits.max_input_len)
    return replace(contract, kv_in_place=contract.kv_in_place and form.in_place, limits=limits)
