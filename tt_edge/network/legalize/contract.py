"""The contract of an engine in one form, where it differs from the bundle's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from tt_edge.config import Limits
from tt_edge.contract import GENERATION_TOKENS, TILES, WHOLE_IMAGES, IOContract, VisionGeometry
from tt_edge.network.ir import Network
from tt_edge.network.legalize.form import Form
from tt_edge.network.legalize.plain_attention import scores_bytes
from tt_edge.tensorrt_features import ATTENTION

#: Maximum bytes of the scores of one attention if they are tensors of the network: matrix multiplies around a softmax.
#: This limits the tokens per call: longer prompts are processed in chunks, and images are scaled to fit.
SCORES_LIMIT = 1 << 30


def limits_in_form(contract: IOContract, form: Form, network: Network) -> Limits:
    """The limits of an engine in ``form``, whose calls may be smaller; ``network`` is the captured one."""
    if contract.geometry is not None:
        return contract.limits.narrowed(max_image_tokens=most_image_tokens(contract, form, network))
    return contract.limits.narrowed(max_input_len=widest_call(contract, form, network))


def widest_call(contract: IOContract, form: Form, network: Network) -> int:
    """The maximum number of new tokens per slot in one call of an engine in ``form``; ``network`` is the captured one."""
    heads = max((math.prod(sizes[1:-2]) for sizes in _scores(network, form)), default=0)
    if not heads or not contract.kv_cache:
        return contract.max_input_len
    width = SCORES_LIMIT // (contract.max_batch * scores_bytes(heads, contract.max_seq_len))
    return min(contract.max_input_len, max(width // 16 * 16, 16, GENERATION_TOKENS))


def most_image_tokens(contract: IOContract, form: Form, network: Network) -> int:
    """The maximum number of image tokens in one call of a tower in ``form``: at least those of one unit."""
    geometry, most = contract.tower, contract.max_image_tokens
    step = geometry.image_rows if geometry.unit in (TILES, WHOLE_IMAGES) else 1
    low, high = 1, max(1, most // step)  # in steps; the bytes grow with them
    while low < high:
        middle = (low + high + 1) // 2
        fits = _tower_bytes(network, form, geometry, geometry.most_units(middle * step)) <= SCORES_LIMIT
        low, high = (middle, high) if fits else (low, middle - 1)
    return min(most, low * step)


def _tower_bytes(network: Network, form: Form, geometry: VisionGeometry, units: int) -> int:
    """Bytes of the largest attention's scores in a call of so many units."""

    def elements(sizes: tuple[int, ...]) -> int:
        batch, *others = sizes  # a dynamic batch is of units, any other dynamic dimension of their patches
        return (units if batch == -1 else batch) * math.prod(
            units * geometry.patches_a_unit if n == -1 else n for n in others
        )

    return max((scores_bytes(1, elements(sizes)) for sizes in _scores(network, form)), default=0)


def _scores(network: Network, form: Form) -> Iterator[tuple[int, ...]]:
    """The shape of each attention's scores that are tensors: in this form, or as captured, such as Gemma 2's capped ones."""
    for layer in network.layers:
        shapes = [network.tensors[name].shape for name in layer.inputs[:2] if name]
        if layer.kind == "ATTENTION" and ATTENTION in form.replaced:
            yield (*shapes[0][:-1], shapes[1][-2])
        elif layer.kind == "SOFTMAX" and len(shapes[0]) >= 4:
            yield shapes[0]  # [batch, heads, or groups of them, queries, keys]


def in_form(contract: IOContract, form: Form, limits: Limits | None = None) -> IOContract:
    """``contract`` for an engine in ``form``: sets whether the cache is updated in place, and the limits of its calls."""
    return replace(contract, kv_in_place=contract.kv_in_place and form.in_place, limits=limits or contract.limits)
