"""Finding where a network diverges from the module it was compiled from: their outputs, module by module."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tt_edge.contract import Step, feeds
from tt_edge.network.ir import Network
from tt_edge.network.reference.evaluator import ReferenceEvaluator

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.contract import IOContract
    from tt_edge.network.reference.compare import Comparison


def compare_layers_with(
    model: PreTrainedModel, network: Network, contract: IOContract, prompt: list[int], tolerance: float
) -> Comparison:
    """Compare the output of every module of the model with the network's tensor for it, in order.

    The network's layers carry the path of the module they came from, so the last layer under a path is its output.
    """
    from tt_edge.network.reference.compare import compare_layers

    evaluator = ReferenceEvaluator(network, fold_constants=False)
    outputs = _module_outputs(model, prompt)
    references: dict[str, np.ndarray] = {}
    for path, array in outputs.items():
        tensor = _tensor_of(network, path)
        if tensor is not None and _fits(network.tensors[tensor].shape, array.shape):
            references[tensor] = array
    return compare_layers(evaluator, _feeds(contract, prompt), references, tolerance)


def _module_outputs(model: PreTrainedModel, prompt: list[int]) -> dict[str, np.ndarray]:
    """Float32 outputs of all modules except the head, for one prompt, by module path."""
    outputs: dict[str, np.ndarray] = {}

    def keep(path: str) -> Any:
        def hook(_module: Any, _args: Any, result: Any) -> None:
            tensor = result[0] if isinstance(result, tuple) else result
            if isinstance(tensor, torch.Tensor) and tensor.ndim == 3:
                outputs[path] = tensor.detach().float().numpy()

        return hook

    head = model.get_output_embeddings()
    modules = [(path, module) for path, module in model.named_modules() if path and module is not head]
    handles = [module.register_forward_hook(keep(path)) for path, module in modules]
    try:
        with torch.no_grad():
            model(torch.tensor([prompt]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _tensor_of(network: Network, path: str) -> str | None:
    """The tensor that holds the output of the module at ``path``: that of the last layer in it or its submodules."""
    pattern = re.compile(rf"(^|\[)model\.{re.escape(path)}[./]")  # the exporter's wrapper adds the leading "model."
    return next((layer.outputs[0] for layer in reversed(network.layers) if pattern.search(layer.name)), None)


def _fits(shape: tuple[int, ...], actual: tuple[int, ...]) -> bool:
    return len(shape) == len(actual) and all(d in (-1, a) for d, a in zip(shape, actual, strict=True))


def _feeds(contract: IOContract, prompt: list[int]) -> dict[str, np.ndarray]:
    ids = np.array([prompt], np.int64)
    step = Step(contract, ids, np.array([len(prompt)]), np.zeros(1, np.int32))
    empty = [*(contract.input(name) for name in contract.cache_names), *contract.feature_tables, *contract.cross]
    return feeds(step) | {spec.name: np.zeros(spec.resolve(batch=1), spec.dtype.numpy) for spec in empty}
