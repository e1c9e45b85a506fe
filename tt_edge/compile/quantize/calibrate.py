"""modelopt's calibration: ranges of inputs, AWQ's and SmoothQuant's scales. The model's weights are not changed."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tt_edge.atomic import replace_file
from tt_edge.compile.half_products import float32_products
from tt_edge.compile.memory import map_large_blocks, release_memory
from tt_edge.compile.overflow import checked_activations
from tt_edge.compile.quantize.data import Batch
from tt_edge.compile.quantize.layers import Statistics, layers_to_quantize
from tt_edge.compile.vision.families import family_of
from tt_edge.compile.vision.padded.flattened import FLATTENED_PATCHES
from tt_edge.config.quantization import QuantConfig, QuantFormat
from tt_edge.contract import TILE_PIXELS
from tt_edge.errors import InvalidInputError

#: The file in a bundle with the calibration statistics, so that `verify` can quantize the checkpoint in the same way.
STATISTICS_FILE = "quantization.safetensors"

_FP4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
#: How each format is calibrated.
_ALGORITHMS: dict[QuantFormat, Any] = {
    QuantFormat.FP8: "max",
    QuantFormat.INT8_SQ: "smoothquant",
    QuantFormat.INT4_AWQ: {"method": "awq_lite", "alpha_step": 0.1},
    QuantFormat.NVFP4: "max",
}


def _quantizers(format: QuantFormat, group_size: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    if format is QuantFormat.FP8:
        return {"num_bits": (4, 3), "axis": None}, {"num_bits": (4, 3), "axis": None}
    if format is QuantFormat.INT8_SQ:
        return {"num_bits": 8, "axis": 0}, {"num_bits": 8, "axis": None}
    if format is QuantFormat.NVFP4:
        return _FP4, _FP4
    return {"num_bits": 4, "block_sizes": {-1: group_size, "type": "static"}}, None


def calibrate(
    model: nn.Module,
    recipe: QuantConfig,
    batches: Sequence[Batch],
    *,
    device: str | None = None,
    cache: Path | None = None,
    show: bool = False,
) -> dict[str, Statistics]:
    """Run ``batches`` through the model and return the statistics of each layer whose format needs them.

    Deterministic. ``device`` is where it runs (default: a GPU if there is one); the model is back on the CPU afterwards.
    With ``cache``, a folder, the result is stored under a hash of weights, recipe and batches, and reused the next time.
    """
    layers = {name: f for name, f in layers_to_quantize(model, recipe).items() if f.needs_data}
    if not layers:
        return {}
    file = None
    if cache is not None:
        file = cache / f"{_content_hash(model, recipe, batches)}.safetensors"
        if (kept := _read(file, layers)) is not None:
            return kept
    map_large_blocks()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    statistics: dict[str, Statistics] = {}
    model.to(device)
    try:
        for format in [f for f in _ALGORITHMS if f in layers.values()]:
            names = [name for name, f in layers.items() if f is format]
            statistics |= _calibrate_format(model, names, format, recipe.group_size, batches, device, show)
            release_memory(cycles=True)
    finally:
        model.to("cpu")
    ordered = {name: statistics[name] for name in layers}
    if file is not None:
        _write(file, ordered)
    return ordered


def _calibrate_format(
    model: nn.Module,
    names: Sequence[str],
    format: QuantFormat,
    group_size: int,
    batches: Sequence[Batch],
    device: str,
    show: bool,
) -> dict[str, Statistics]:
    with _quiet():
        import modelopt.torch.quantization as mtq
        from modelopt.torch.quantization import model_calib

    weight, given = _quantizers(format, group_size)
    entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for name in names:
        entries.append({"quantizer_name": f"{name}.weight_quantizer", "cfg": weight, "enable": True})
        if given is not None:
            entries.append({"quantizer_name": f"{name}.input_quantizer", "cfg": given, "enable": True})

    # The logits are not needed, and the head is the largest matrix of a small model: PyTorch's copy of it for the CPU took
    # as much memory as all other layers.
    head = getattr(model, "get_output_embeddings", lambda: None)()
    without_head = not any(model.get_submodule(name) is head for name in names)

    def forward_loop(calibrated: nn.Module) -> None:
        with torch.no_grad(), float32_products(), checked_activations(calibrated):
            for batch in _with_progress(batches, f"calibrate {format}", show):
                _run(calibrated, {name: tensor.to(device) for name, tensor in batch.items()}, without_head)
                release_memory()

    # modelopt changes the classes of modules, including attention and embeddings, so it gets a copy that shares the tensors.
    tensors = [*model.parameters(), *model.buffers()]
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    # The weights are not changed: scales that modelopt would fold into them are applied later, by quantization.
    with _quiet(), patch.object(model_calib, "_ENABLE_FOLDING_PQS_TO_WEIGHTS", False):
        mtq.quantize(copied, {"quant_cfg": entries, "algorithm": _ALGORITHMS[format]}, forward_loop)
        return {name: _statistics(copied.get_submodule(name), format) for name in names}


def _run(model: nn.Module, batch: Batch, without_head: bool) -> None:
    decodes = isinstance(model, PreTrainedModel) and not model.config.is_encoder_decoder
    family = family_of(model) if decodes else None
    if (
        family is not None and not {TILE_PIXELS, FLATTENED_PATCHES} & batch.keys()
    ):  # BLIP-2 does not run without an image
        hidden = family.decoder_of(model)(**batch, use_cache=False).last_hidden_state
        if not without_head:
            family.head_of(model)(hidden)
        return
    body = getattr(model, "base_model", model) if without_head else model
    body(**batch, use_cache=False)


def _statistics(module: nn.Module, format: QuantFormat) -> Statistics:
    quantizer: Any = module.input_quantizer
    scale = getattr(quantizer, "pre_quant_scale", None)
    amax = None if format is QuantFormat.INT4_AWQ else quantizer.amax
    return Statistics(
        None if amax is None else amax.detach().float().amax().cpu(),
        None if scale is None else scale.detach().reshape(-1).cpu().clone(),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what modelopt prints and warns about: optional packages, and the missing GPU."""
    import contextlib
    import io
    import warnings

    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _with_progress(batches: Iterable[Batch], title: str, show: bool) -> Iterable[Batch]:
    import sys

    from tqdm import tqdm

    return tqdm(batches, desc=title, unit="batch", leave=False, disable=not (show and sys.stderr.isatty()))


def _content_hash(model: nn.Module, recipe: QuantConfig, batches: Sequence[Batch]) -> str:
    digest = hashlib.sha256(repr(recipe).encode())
    given = (item for batch in batches for item in sorted(batch.items()))
    for name, tensor in chain(sorted(model.named_parameters()), given):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _write(file: Path, statistics: Mapping[str, Statistics]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, to_bytes(statistics))


def _read(file: Path, layers: Mapping[str, QuantFormat]) -> dict[str, Statistics] | None:
    """The statistics stored in ``file``; ``None`` if it is missing or unusable."""
    try:
        statistics = from_bytes(file.read_bytes())
    except (OSError, InvalidInputError):
        return None
    return {name: statistics[name] for name in layers} if statistics.keys() == layers.keys() else None


def to_bytes(statistics: Mapping[str, Statistics]) -> bytes:
    """Statistics as a safetensors file: ``LAYER/input_amax``, ``LAYER/pre_quant_scale``."""
    from safetensors.torch import save

    content: bytes = save(
        {
            f"{name}/{field}": tensor.contiguous()
            for name, found in statistics.items()
            for field, tensor in vars(found).items()
            if tensor is not None
        }
    )
    return content


def from_bytes(content: bytes) -> dict[str, Statistics]:
    """The reverse of ``to_bytes``. Raises ``InvalidInputError`` for anything else."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise InvalidInputError(f"the statistics of calibration cannot be read ({error}); compile again") from error
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, field = key.rpartition("/")
        found.setdefault(name, {})[field] = tensor
    try:
        return {name: Statistics(**fields) for name, fields in found.items()}
    except TypeError as error:
        raise InvalidInputError(f"the statistics of calibration are malformed ({error}); compile again") from error
