"""What a model in fp32 with quantized inputs computes if numbers on the edge between two steps are rounded to the other one.

In fp32, two right implementations differ by about 1e-7. Rounding to int8 or fp8 hides that, except for a number so close to the
middle of two steps that either may be taken. The difference is then a whole step (1/127 of the largest number in int8, 1/16 of the
number itself in fp8), which the layers after it carry on. No fixed tolerance is right for both cases. So the model itself is the
yardstick: it is computed again with the inputs of its quantized layers moved by ``EDGE``, once up and once down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor, nn

from tt_edge.compile.quantize.quantized_linear import QuantizedLinear

#: How far inputs are moved, as a part of the largest number of the input: two units in the last place of that number in fp32.
EDGE = 2.0**-22


def farthest_rounding(
    model: nn.Module, exact: dict[str, np.ndarray], compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Of each array that ``compute`` makes with ``model``, the one farthest from ``exact`` when edges are rounded otherwise.

    It is ``exact`` itself for a model without quantized inputs, which is not computed again.
    """
    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear) and m.input_scale is not None]
    found = [exact]
    for by in (EDGE, -EDGE) if layers else ():
        with _moved(layers, by):
            found.append(compute())
    return {
        name: max((each[name] for each in found), key=lambda array: float(np.linalg.norm(array - right)))
        for name, right in exact.items()
    }


@contextmanager
def _moved(layers: list[QuantizedLinear], by: float) -> Iterator[None]:
    """Within the block, the inputs of ``layers`` are moved by ``by`` times their largest number."""

    def moved(_layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = given[0]
        return (x + by * x.abs().amax(), *given[1:])

    handles = [layer.register_forward_pre_hook(moved) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
