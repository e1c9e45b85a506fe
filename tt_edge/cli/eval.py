"""Evaluate bundles on data with known answers: MMLU, MMMU, GSM8K, the perplexity of a text, or questions of your own. With
--model the checkpoint answers too, in PyTorch and quantized as each bundle is, so that the numbers stand side by side. With
--output, answers are recorded one by one, and the same command continues after it was interrupted."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tt_edge.cli.options import add_require_signature

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle
    from tt_edge.compile.checkpoint import Checkpoint
    from tt_edge.evaluation.bundle_model import BundleModel
    from tt_edge.evaluation.formats.task import Task
    from tt_edge.evaluation.requests import Model
    from tt_edge.ray.cluster import Cluster
    from tt_edge.runtime.llm import LLM

#: Formats by name: what --data is, and the options that the format takes besides --count.
TASKS = {
    "questions": ("JSON lines of messages, prompt or audio, and answer", ("max_new_tokens",)),
    "mmlu": ("MMLU's folder of CSV files, with dev and test", ("shots", "subjects", "split")),
    "mmmu": ("VLMEvalKit's TSV of MMMU", ("preset", "max_new_tokens", "split")),
    "gsm8k": ("JSON lines of question and answer", ("shots", "fewshot", "max_new_tokens")),
    "perplexity": ("a text file", ("window", "context")),
}


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    kinds = "; ".join(f"{name}: {what}" for name, (what, _) in TASKS.items())
    parser.add_argument("bundle", nargs="+", help="bundles; each is compared with the first")
    parser.add_argument("--task", choices=TASKS, default="questions", help="the format of --data (default: questions)")
    parser.add_argument("--data", required=True, type=Path, metavar="PATH", help=kinds)
    parser.add_argument("--count", type=int, metavar="N", help="only the first N questions or windows")
    parser.add_argument("--model", metavar="CHECKPOINT", help="what the bundles were compiled from; needs PyTorch")
    parser.add_argument("--runtime", default="auto", help="auto (the default), tensorrt or reference")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="record answers there, continue from them, and write reports there"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="answer on the machines of a Ray cluster, which have the bundles at the same paths: HOST:PORT, auto, or local "
        "(started for this); --model answers here",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--shots", type=int, metavar="N", help="mmlu, gsm8k: examples in the prompt (default: 5)")
    parser.add_argument(
        "--subject", action="append", dest="subjects", metavar="NAME", help="mmlu: only this; repeatable"
    )
    parser.add_argument(
        "--split", metavar="NAME", help="mmlu: test (the default) or val; mmmu: only rows of this split"
    )
    parser.add_argument("--fewshot", type=Path, metavar="FILE", help="gsm8k: where the examples come from")
    parser.add_argument(
        "--preset", metavar="NAME", help="mmmu: driveos (image tokens 1280 to 6620, input 7168, sequence 8192)"
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="questions, mmmu, gsm8k: the longest answer")
    parser.add_argument(
        "--window", type=int, metavar="N", help="perplexity: tokens of a window (default: the bundle's limit)"
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help="perplexity: tokens of a window that are only read (default: 1)"
    )
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Ask; a table."""
    import sys

    from tt_edge.bundle import Bundle
    from tt_edge.cli.terminal import safe
    from tt_edge.evaluation.report import as_json, render, write_reports

    task = _task(args)
    bundles = [Bundle.open(path, args.require_signature) for path in args.bundle]  # a bad one is seen at once
    checkpoint = None
    if args.model:
        from tt_edge.compile.checkpoint import Checkpoint

        checkpoint = Checkpoint.open(args.model)
    with _cluster(args) as cluster:
        rows = [
            _row(args, task, path, bundle, checkpoint, cluster)
            for path, bundle in zip(args.bundle, bundles, strict=True)
        ]
    if args.output is not None:
        write_reports(args.output, task, rows)
    print(as_json(rows) if args.json else safe(render(task, rows), sys.stdout))
    return 0


def _task(args: argparse.Namespace) -> Task:
    """The data, read. Raises ``InvalidInputError`` for what it is not, and for options of other formats."""
    from tt_edge.errors import InvalidInputError
    from tt_edge.evaluation.formats.gsm8k import GSM8K
    from tt_edge.evaluation.formats.mmlu import MMLU
    from tt_edge.evaluation.formats.mmmu import MMMU
    from tt_edge.evaluation.formats.perplexity import Perplexity
    from tt_edge.evaluation.formats.questions import Questions

    for name in ("count", "max_new_tokens", "window"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise InvalidInputError(f"--{name.replace('_', '-')} is {value}; give at least 1")
    own, given = TASKS[args.task][1], {}
    for name in {option for _, options in TASKS.values() for option in options}:
        if (value := getattr(args, name)) is None:
            continue
        if name not in own:
            flag = "--subject" if name == "subjects" else f"--{name.replace('_', '-')}"
            raise InvalidInputError(f"{flag} is not for --task {args.task}; omit it")
        given[name] = tuple(value) if name == "subjects" else value
    classes: list[Any] = [Questions, MMLU, MMMU, GSM8K, Perplexity]
    found: Task = next(kind for kind in classes if kind.name == args.task)(args.data, args.count, **given)
    return found


def _cluster(args: argparse.Namespace) -> AbstractContextManager[Cluster | None]:
    if args.ray is None:
        return nullcontext()
    from tt_edge.ray.cluster import connected

    return connected(args.ray)


def _row(
    args: argparse.Namespace,
    task: Task,
    path: str,
    bundle: Bundle,
    checkpoint: Checkpoint | None,
    cluster: Cluster | None,
) -> dict[str, Any]:
    from tt_edge.errors import InvalidInputError
    from tt_edge.evaluation.bundle_model import BundleModel, identity_of
    from tt_edge.evaluation.run import evaluate
    from tt_edge.runtime.llm import LLM

    if bundle.manifest.takes_source and task.name != "questions":
        raise InvalidInputError(
            f"{path} is of an encoder-decoder, whose answers do not continue a text; give --task questions, with prompt, images or "
            "audio, and answer"
        )
    record = None if args.output is None else args.output / "answers.jsonl"
    config = bundle.manifest.config
    format = config.network.precision.value if config.quantization.recipe is None else config.quantization.recipe.name
    if (keep := config.vision.keep_image_tokens) != 1:
        format += f", {keep:.0%} of image tokens" if keep < 1 else f", {keep:.0f} image tokens"
    # Beside a cluster, it only encodes prompts here, and may need an engine's machine for more.
    here = "reference" if cluster is not None and _weight_bytes(bundle) is not None else args.runtime
    with LLM.load(path, here, args.require_signature) as llm:
        local = BundleModel(llm, identity_of(bundle))
        items = task.items(local)
        model: Model = local if cluster is None else _remote(args, path, cluster, local)
        network = evaluate(task, model, items, record, path)
        pytorch = None
        if checkpoint is not None:
            pytorch = evaluate(
                task, _pytorch(checkpoint, bundle, llm), items, record, f"{args.model} in PyTorch, {format}"
            )
        return {
            "bundle": path,
            "format": format,
            "weight_bytes": _weight_bytes(bundle),
            "word": model.word,
            "network": network,
            "pytorch": pytorch,
        }


def _remote(args: argparse.Namespace, path: str, cluster: Cluster, local: BundleModel) -> Model:
    from tt_edge.ray.evaluation import Loading, RayModel

    key = args.require_signature and str(Path(args.require_signature).resolve())
    return RayModel(cluster, local, Loading(str(Path(path).resolve()), args.runtime, key, local.identity))


def _pytorch(checkpoint: Checkpoint, bundle: Bundle, llm: LLM) -> Model:
    from tt_edge.compile.parity.accuracy import PyTorchModel
    from tt_edge.compile.parity.references.loading import load_reference
    from tt_edge.compile.parity.seq2seq.answers import PyTorchSeq2Seq

    config = bundle.manifest.config
    model = load_reference(checkpoint, config.network.precision)
    quantized = ""
    if config.quantization.recipe is not None:
        from tt_edge.compile.quantize.calibrate import STATISTICS_FILE
        from tt_edge.compile.quantize.stage import quantize_again

        quantize_again(model, config.quantization.recipe, bundle.read_bytes(STATISTICS_FILE))
        quantized = f"{config.quantization.recipe} {bundle.manifest.files[STATISTICS_FILE].sha256}"
    kind = PyTorchModel if llm.source is None else PyTorchSeq2Seq
    return kind(model, checkpoint, llm, precision=config.network.precision.value, quantized=quantized)


def _weight_bytes(bundle: Bundle) -> int | None:
    from tt_edge.bundle.manifest import DECODER, part_file
    from tt_edge.network.storage import WEIGHTS_FILE

    weights, files = part_file(DECODER, WEIGHTS_FILE), bundle.manifest.files
    return files[weights].size if weights in files else None
