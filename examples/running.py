"""Shared by run_llm.py and run_vlm.py: options, the compile settings for them, and printing of outputs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tt_edge.config import Backend, Cache, CompileConfig, EngineTarget, TowerAttention
from tt_edge.config.quantization import QuantConfig
from tt_edge.errors import InvalidInputError, TTEdgeError
from tt_edge.runtime.multimodal.sources import ImageSource

#: By --quant_format: the format for each --quant_algo (``None``: not given) and --weight_only.
QUANTIZATION: dict[str, dict[tuple[str | None, bool], str]] = {
    "fp8": {(None, False): "fp8", ("max", False): "fp8"},
    "int8": {
        (None, False): "int8_sq",
        ("smoothquant", False): "int8_sq",
        (None, True): "int8_wo",
        ("max", True): "int8_wo",
    },
    "int4": {(None, True): "int4_awq", (None, False): "int4_awq", ("awq_lite", True): "int4_awq",
             ("awq_lite", False): "int4_awq", ("max", True): "int4_wo", ("max", False): "int4_wo"},
    "nvfp4": {(None, False): "nvfp4", ("max", False): "nvfp4"},
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser, *, num_tokens: int) -> None:
    """Add the options of both scripts; ``num_tokens`` is the default of ``--num_tokens``."""
    add = parser.add_argument
    add("--model", help="checkpoint folder or hub id; with --from_bundle, only for --enable_pytorch_run")
    add("--backend", default="native", choices=list(Backend), help="how attention is compiled (default: native)")
    add("--cache", choices=["static_v1", "static_v2"], help="KV cache of the sdpa backend (default: none)")
    add("--precision", "--model_precision", default="FP16", type=str.upper, choices=["FP16", "BF16", "FP32"])
    add("--num_tokens", type=int, default=num_tokens, metavar="N", help=f"new tokens (default {num_tokens})")
    add("--enable_pytorch_run", action="store_true", help="run PyTorch too, and compare")
    add("--benchmark", action="store_true", help="measure speed on random input instead of --prompt")
    add("--iterations", type=int, default=5, metavar="N", help="timed runs of --benchmark (default 5)")
    add("--isl", type=int, default=2048, metavar="N", help="input tokens of --benchmark (default 2048)")
    add("--max_seq_len", type=int, metavar="N", help="KV cache capacity (default: what this run needs)")
    add("--engine", metavar="TARGETS", help="sm89,sm120, local or none (default: local where there is a GPU)")
    add("--output", metavar="DIR", help="keep the bundle here")
    add("--from_bundle", metavar="DIR", help="run this bundle; nothing is compiled")
    add("--plugin_path", metavar="LIB", help="AttentionPlugin library (default: that of tensorrt-edgellm)")
    add("--quant_format", choices=list(QUANTIZATION), help="quantize the linear layers (default: not at all)")
    add(
        "--quant_algo",
        choices=["max", "smoothquant", "awq_lite"],
        help="algorithm for --quant_format (default: its usual one)",
    )
    add("--weight_only", action="store_true", help="with --quant_format int8 or int4: do not quantize activations")
    add("--calib_data", metavar="PATH", help="what to calibrate --quant_format on (default: a small built-in set)")
    add("--kv_cache", choices=["fp16", "bf16", "fp8"], help="KV cache type; fp8 with --backend plugin")
    add("--cudagraph", action="store_true", help="accepted and ignored: the runtime decides how steps are launched")
    add("--min_block_size", type=int, default=1, help="accepted and ignored: the model is always one engine")
    add("--debug", action="store_true", help="tracebacks, and TensorRT's messages")


def check(args: argparse.Namespace) -> None:
    """Refuse invalid combinations of options before anything is loaded."""
    quantization(args)
    for name, least in (("num_tokens", 2), ("iterations", 1)) if args.benchmark else ():
        if getattr(args, name) < least:
            raise InvalidInputError(f"--{name} is {getattr(args, name)}; a benchmark needs at least {least}")
    if args.from_bundle and (args.quant_format or args.kv_cache):
        raise InvalidInputError("a bundle is quantized when it is compiled; omit --quant_format and --kv_cache")
    if not args.from_bundle and not args.model:
        raise InvalidInputError("nothing to run; give --model or --from_bundle")
    if args.enable_pytorch_run and not args.model:
        raise InvalidInputError("--enable_pytorch_run needs the checkpoint; give --model beside --from_bundle")
    if args.cache and args.backend != Backend.SDPA:
        raise InvalidInputError(
            f"--cache is for the sdpa backend, not {args.backend}; give --backend sdpa, or omit --cache"
        )


def quantization(args: argparse.Namespace) -> QuantConfig | None:
    """The quantization recipe for the three options."""
    if args.quant_format is None:
        if args.quant_algo or args.weight_only:
            raise InvalidInputError("--quant_algo and --weight_only need --quant_format; give it, e.g. fp8")
        return None
    found = QUANTIZATION[args.quant_format].get((args.quant_algo, args.weight_only))
    if found is None:
        raise InvalidInputError(
            f"--quant_format {args.quant_format} has no --quant_algo {args.quant_algo}"
            f"{' with --weight_only' if args.weight_only else ''}; omit it, or choose another"
        )
    return QuantConfig(found)


def compile_bundle(
    args: argparse.Namespace,
    output: Path,
    *,
    input_tokens: int,
    batch: int = 1,
    max_image_tokens: int | None = None,
    vision_attention: TowerAttention = TowerAttention.NATIVE,
    tokenizer: str | None = None,
    images: Sequence[ImageSource] = (),
) -> None:
    """Compile ``--model`` for just this run, unless ``--max_seq_len`` asks for more room."""
    import torch

    from tt_edge.compile.pipeline import compile_checkpoint
    from tt_edge.compile.quantize.data import CalibrationData

    capacity = args.max_seq_len or input_tokens + args.num_tokens
    config = CompileConfig.of(
        backend=args.backend,
        cache=args.cache or (Cache.NONE if args.backend == Backend.SDPA else None),
        precision=args.precision.lower(),
        max_batch=batch,
        max_input_len=min(input_tokens, capacity),
        max_seq_len=capacity,
        max_image_tokens=max_image_tokens,
        vision_attention=vision_attention,
        quant=quantization(args),
        kv_cache=args.kv_cache,
    )
    default = "local" if torch.cuda.is_available() and not config.needs_plugins else "none"
    target = EngineTarget.parse(args.engine or default)
    calibration = CalibrationData(Path(args.calib_data)) if args.calib_data else None
    report = compile_checkpoint(
        args.model, output, config, target, tokenizer=tokenizer, plugin_path=args.plugin_path, overwrite=True,
        calibration=calibration, images=images,
    )  # fmt: skip
    print(report.decoder.lowering.render())
    print(report.render())


def show(title: str, text: str, word: str) -> None:
    """Print one side's output, in the format of torch_tensorrt's scripts."""
    print(f"\n========= {title} =========")
    print(text)
    print(f"({word})")


def show_match(args: argparse.Namespace, theirs: Sequence[int], ours: Sequence[int]) -> int:
    """Print whether the new tokens are equal, and where they diverge. Returns 0, or 1 when they differ."""
    match = list(theirs) == list(ours)
    print(f"PyTorch and TensorRT outputs match: {match}")
    if match:
        return 0
    first = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    hint = "; in half precision near-ties fall either way, see tt-edge verify" if args.precision != "FP32" else ""
    if args.quant_format:
        hint = "; PyTorch is not quantized here, see tt-edge verify and tt-edge eval"
    print(f"  they part at new token {first}{hint}")
    return 1


def guarded(name: str, run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Call ``run`` and return its exit code. Prints an error as one line, or with --debug as a traceback."""
    if args.debug:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        return run(args)
    except TTEdgeError as error:
        if args.debug:
            raise
        print(f"{name}: error: {error}", file=sys.stderr)
        return error.exit_code
