"""Detect fp16 overflow: in weights that were cast to fp16, and in the outputs of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tt_edge.errors import UnsupportedModelError


def check_weights(model: nn.Module) -> None:
    """Raise ``UnsupportedModelError`` for a weight in fp16 that holds an infinity or NaN: fp16 ends at 65,504."""
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float16 and parameter.numel() and not _is_finite(parameter):
            raise UnsupportedModelError(f"weight {name} has values beyond fp16; compile with --precision bf16")


def _is_finite(tensor: Tensor) -> bool:
    least, most = torch.aminmax(tensor.detach())  # makes no copy
    return bool(torch.isfinite(least) and torch.isfinite(most))


@contextmanager
def checked_activations(model: nn.Module) -> Iterator[None]:
    """Within the block, a layer whose output is infinite or NaN raises ``UnsupportedModelError`` with its name."""

    def check(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel() and not _is_finite(tensor):
                kind = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(tensor.dtype, "fp32")
                way_out = "compile with --precision bf16" if kind == "fp16" else "check the checkpoint's weights"
                raise UnsupportedModelError(
                    f"the output of {name} ({type(module).__name__}) overflows in {kind}; {way_out}"
                )

        return hook

    handles = [module.register_forward_hook(check(name)) for name, module in model.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def overflow_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> str | None:
    """One line that names the layer that overflows for ``inputs``; ``None`` if none does."""
    try:
        with checked_activations(model):
            model(**inputs, use_cache=False)
    except UnsupportedModelError as error:
        return str(error)
    return None
