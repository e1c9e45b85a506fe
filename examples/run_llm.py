"""Compile a Hugging Face LLM, generate with it, and compare with PyTorch.

    python examples/run_llm.py --model M --backend native|sdpa|plugin [--cache static_v1|static_v2] \\
        --prompt "…" --precision FP16|BF16|FP32 --num_tokens 30 --enable_pytorch_run
    python examples/run_llm.py --model M --benchmark --iterations 5 --isl 128 --num_tokens 20 --batch_size 1

The flags are those of torch_tensorrt's tools/llm/run_llm.py and its plugin branch. What runs the compiled model is printed
with its output: TensorRT where an engine fits this machine's GPU, or else reference evaluation of the network.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from tt_edge.config import Backend, Cache, CompileConfig, EngineTarget, Precision
from tt_edge.errors import InvalidInputError, TTEdgeError
from tt_edge.generation_config import GenerationConfig
from tt_edge.quant_config import QuantConfig

#: By --quant_format: what --quant_algo (``None``: not given) and --weight_only choose.
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

PROMPT = "What is parallel programming?"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", help="checkpoint folder or hub id; with --from_bundle, only for --enable_pytorch_run")
    add("--tokenizer", help="take the tokenizer from here (default: --model)")
    add("--prompt", default=PROMPT, help="text to continue (default: %(default)s)")
    add("--backend", default="native", choices=list(Backend), help="how attention is compiled (default: native)")
    add("--cache", choices=["static_v1", "static_v2"], help="KV cache of the sdpa backend (default: none)")
    add("--precision", "--model_precision", default="FP16", type=str.upper, choices=["FP16", "BF16", "FP32"])
    add("--num_tokens", type=int, default=128, metavar="N", help="new tokens (default 128)")
    add("--enable_pytorch_run", action="store_true", help="run PyTorch too, and compare")
    add("--benchmark", action="store_true", help="measure speed on random tokens in place of --prompt")
    add("--iterations", type=int, default=5, metavar="N", help="timed runs of --benchmark (default 5)")
    add("--isl", type=int, default=2048, metavar="N", help="input tokens of --benchmark (default 2048)")
    add("--batch_size", type=int, default=1, metavar="N", help="rows of --benchmark (default 1)")
    add("--max_seq_len", type=int, metavar="N", help="KV cache capacity (default: what this run needs)")
    add("--engine", metavar="TARGETS", help="sm89,sm120, local or none (default: local where there is a GPU)")
    add("--output", metavar="DIR", help="keep the bundle here")
    add("--from_bundle", metavar="DIR", help="run this bundle; nothing is compiled")
    add("--plugin_path", metavar="LIB", help="AttentionPlugin library (default: that of tensorrt-edgellm)")
    add("--quant_format", choices=list(QUANTIZATION), help="quantize the linear layers (default: not at all)")
    add("--quant_algo", choices=["max", "smoothquant", "awq_lite"], help="of --quant_format (default: its usual one)")
    add("--weight_only", action="store_true", help="with --quant_format int8 or int4: leave activations as they are")
    add("--calib_data", metavar="PATH", help="text to calibrate --quant_format on (default: a small built-in set)")
    add("--kv_cache", choices=["fp16", "bf16", "fp8"], help="KV cache type; fp8 with --backend plugin")
    add("--cudagraph", action="store_true", help="accepted: how steps are launched is the runtime's choice")
    add("--min_block_size", type=int, default=1, help="accepted: the model is always one engine, never cut into blocks")
    add("--debug", action="store_true", help="tracebacks, and TensorRT's messages")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Refuse what makes no sense before anything is loaded."""
    quantization(args)
    if args.from_bundle and (args.quant_format or args.kv_cache):
        raise InvalidInputError("a bundle is quantized when it is compiled; leave --quant_format and --kv_cache")
    if not args.from_bundle and not args.model:
        raise InvalidInputError("nothing to run; give --model or --from_bundle")
    if args.enable_pytorch_run and not args.model:
        raise InvalidInputError("--enable_pytorch_run needs the checkpoint; give --model beside --from_bundle")
    if args.cache and args.backend != Backend.SDPA:
        raise InvalidInputError(f"--cache is the sdpa backend's, not {args.backend}'s; give --backend sdpa or leave it")
    if args.num_tokens < 1 or args.isl < 1 or args.batch_size < 1:
        raise InvalidInputError("--num_tokens, --isl and --batch_size must be at least 1")


def quantization(args: argparse.Namespace) -> QuantConfig | None:
    """The recipe that the three options mean."""
    if args.quant_format is None:
        if args.quant_algo or args.weight_only:
            raise InvalidInputError("--quant_algo and --weight_only are of --quant_format; give it, e.g. fp8")
        return None
    found = QUANTIZATION[args.quant_format].get((args.quant_algo, args.weight_only))
    if found is None:
        raise InvalidInputError(
            f"--quant_format {args.quant_format} has no --quant_algo {args.quant_algo}"
            f"{' with --weight_only' if args.weight_only else ''}; leave it, or choose another"
        )
    return QuantConfig(found)


def compile_bundle(args: argparse.Namespace, output: Path) -> None:
    """Compile ``--model`` for just this run, unless ``--max_seq_len`` asks for more room."""
    import torch

    from tt_edge.compile.pipeline import compile_checkpoint
    from tt_edge.compile.quantize.data import CalibrationData

    if args.benchmark:
        prompt_tokens, batch = args.isl, args.batch_size
    else:
        prompt_tokens, batch = count_tokens(args), 1
    capacity = args.max_seq_len or prompt_tokens + args.num_tokens
    config = CompileConfig(
        backend=args.backend,
        cache=args.cache or (Cache.NONE if args.backend == Backend.SDPA else None),
        precision=args.precision.lower(),
        max_batch=batch,
        max_input_len=min(prompt_tokens, capacity),
        max_seq_len=capacity,
        quant=quantization(args),
        kv_cache=args.kv_cache,
    )
    default = "local" if torch.cuda.is_available() and args.backend != Backend.PLUGIN else "none"
    target = EngineTarget.parse(args.engine or default)
    calibration = CalibrationData(Path(args.calib_data)) if args.calib_data else None
    report = compile_checkpoint(
        args.model, output, config, target, tokenizer=args.tokenizer, plugin_path=args.plugin_path, overwrite=True,
        calibration=calibration,
    )  # fmt: skip
    print(report.lowering.render())
    print(report.render())


def count_tokens(args: argparse.Namespace) -> int:
    from transformers import AutoTokenizer

    from tt_edge.compile.load import check_source

    source = check_source(args.tokenizer or args.model)
    try:
        return len(AutoTokenizer.from_pretrained(source)(args.prompt).input_ids)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{source} has no tokenizer for --prompt; give --tokenizer, or --benchmark") from error


def run(args: argparse.Namespace) -> int:
    """0, or 1 when outputs were compared and differ."""
    from tt_edge.runtime.llm import LLM

    check(args)
    with tempfile.TemporaryDirectory(prefix="tt-edge-") as scratch:
        bundle = Path(args.from_bundle or args.output or Path(scratch) / "model.ttedge")
        if not args.from_bundle:
            compile_bundle(args, bundle)
        with LLM.load(bundle) as llm:
            return benchmark(args, llm) if args.benchmark else compare(args, llm)


def compare(args: argparse.Namespace, llm) -> int:
    """Continue the prompt with the compiled model and, if asked, PyTorch; the familiar page."""
    [ours] = llm.generate([args.prompt], GenerationConfig(max_new_tokens=args.num_tokens))
    theirs = None
    if args.enable_pytorch_run:
        from tt_edge.compile.pytorch_baseline import PyTorchBaseline

        baseline = PyTorchBaseline(args.model, Precision(args.precision.lower()))
        theirs = baseline.generate(ours.input_ids, args.num_tokens)
        show("PyTorch", args.prompt + llm.tokenizer.decode(theirs), baseline.word)
    show("TensorRT", args.prompt + ours.text, llm.session.word)
    if theirs is None:
        return 0
    match = theirs == ours.new_token_ids
    print(f"PyTorch and TensorRT outputs match: {match}")
    if not match:
        pairs = enumerate(zip(theirs, ours.new_token_ids, strict=False))
        first = next((i for i, (a, b) in pairs if a != b), min(len(theirs), len(ours.new_token_ids)))
        hint = "; PyTorch is not quantized here, see tt-edge verify and tt-edge eval" if args.quant_format else None
        if hint is None:
            hint = (
                "" if args.precision == "FP32" else "; in half precision near-ties fall either way, see tt-edge verify"
            )
        print(f"  they part at new token {first}{hint}")
    return 0 if match else 1


def show(title: str, text: str, word: str) -> None:
    print(f"\n========= {title} =========")
    print(text)
    print(f"({word})")


def benchmark(args: argparse.Namespace, llm) -> int:
    """Speed on random tokens; a table."""
    from tt_edge.runtime.benchmark import measure, random_prompts, table

    prompts = random_prompts(llm.session.contract.vocab_size, args.batch_size, args.isl)
    speeds = []
    if args.enable_pytorch_run:
        from tt_edge.compile.pytorch_baseline import PyTorchBaseline

        baseline = PyTorchBaseline(args.model, Precision(args.precision.lower()))
        speeds.append(baseline.measure(prompts, args.num_tokens, args.iterations))
        del baseline
    speeds.append(measure(llm.session, prompts, args.num_tokens, args.iterations))
    print(f"\n{args.batch_size} x {args.isl} input tokens, {args.num_tokens} new, median of {args.iterations} runs")
    print(table(speeds))
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.debug:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        return run(args)
    except TTEdgeError as error:
        if args.debug:
            raise
        print(f"run_llm.py: error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
