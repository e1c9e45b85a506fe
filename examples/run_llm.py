"""Compile a Hugging Face LLM, generate with it, and compare with PyTorch.

    python examples/run_llm.py --model M --backend native|sdpa|plugin [--cache static_v1|static_v2] \\
        --prompt "…" --precision FP16|BF16|FP32 --num_tokens 30 --enable_pytorch_run
    python examples/run_llm.py --model M --benchmark --iterations 5 --isl 128 --num_tokens 20 --batch_size 1

The flags are those of torch_tensorrt's tools/llm/run_llm.py and its plugin branch. The output says what ran the compiled
model: TensorRT if an engine fits this machine's GPU, otherwise the reference evaluation of the network.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # to find examples.running when run as a script

from examples import running
from tt_edge.config import Precision
from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig

PROMPT = "What is parallel programming?"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default=PROMPT, help="text to continue (default: %(default)s)")
    running.add_options(parser, num_tokens=128)
    parser.add_argument("--tokenizer", help="take the tokenizer from here (default: --model)")
    parser.add_argument("--batch_size", type=int, default=1, metavar="N", help="batch size of --benchmark (default 1)")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Refuse invalid combinations of options before anything is loaded."""
    running.check(args)
    if args.num_tokens < 1 or args.isl < 1 or args.batch_size < 1:
        raise InvalidInputError("--num_tokens, --isl and --batch_size must be at least 1")


def compile_bundle(args: argparse.Namespace, output: Path) -> None:
    """Compile ``--model`` for just this run."""
    tokens, batch = (args.isl, args.batch_size) if args.benchmark else (count_tokens(args), 1)
    running.compile_bundle(args, output, input_tokens=tokens, batch=batch, tokenizer=args.tokenizer)


def count_tokens(args: argparse.Namespace) -> int:
    checkpoint = tokenizer_checkpoint(args)
    try:
        return len(checkpoint.tokenizer(args.prompt).input_ids)
    except InvalidInputError as error:
        source = checkpoint.source
        raise InvalidInputError(f"{source} has no tokenizer for --prompt; give --tokenizer, or --benchmark") from error


def tokenizer_checkpoint(args: argparse.Namespace):
    """The checkpoint whose tokenizer is used."""
    from tt_edge.compile.checkpoint import Checkpoint

    return Checkpoint.open_tokenizer(args.tokenizer or args.model)


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
    """Continue the prompt with the compiled model and, if requested, PyTorch; print both."""
    [ours] = llm.generate([args.prompt], GenerationConfig(max_new_tokens=args.num_tokens))
    theirs = None
    if args.enable_pytorch_run:
        from tt_edge.compile.parity.references.baseline import PyTorchBaseline

        baseline = PyTorchBaseline(args.model, Precision(args.precision.lower()))
        tokenizer = tokenizer_checkpoint(args).tokenizer  # transformers' own, as for its users
        ids = tokenizer(args.prompt).input_ids
        theirs, same = baseline.generate(ids, args.num_tokens), list(ours.input_ids) == ids
        running.show("PyTorch", args.prompt + tokenizer.decode(theirs, skip_special_tokens=True), baseline.word)
    running.show("TensorRT", args.prompt + ours.text, llm.session.word)
    if theirs is None:
        return 0
    print(f"PyTorch and TensorRT prompts match: {same} ({len(ours.input_ids)} tokens)")
    return running.show_match(args, theirs, ours.new_token_ids) or int(not same)


def benchmark(args: argparse.Namespace, llm) -> int:
    """Measure speed on random tokens and print a table."""
    from tt_edge.runtime.benchmark.local import measure_batch, random_prompts
    from tt_edge.runtime.benchmark.tables import speed_table
    from tt_edge.runtime.benchmark.workload import Plan

    plan = Plan(args.isl, args.num_tokens, args.batch_size, runs=args.iterations)
    prompts = random_prompts(llm.session.contract.vocab_size, args.batch_size, args.isl)
    measured = []
    if args.enable_pytorch_run:
        from tt_edge.compile.parity.references.baseline import PyTorchBaseline

        baseline = PyTorchBaseline(args.model, Precision(args.precision.lower()))
        measured.append(baseline.measure(prompts, plan))
        del baseline
    measured.append(measure_batch(llm.session, prompts, plan))
    print(f"\n{args.batch_size} x {args.isl} input tokens, {args.num_tokens} new, median of {args.iterations} runs")
    print(speed_table(measured))
    return 0


def main(argv: list[str] | None = None) -> int:
    return running.guarded("run_llm.py", run, parse(argv))


if __name__ == "__main__":
    sys.exit(main())
