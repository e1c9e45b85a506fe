"""Compile a Hugging Face vision-language model, ask it about images, and compare with PyTorch.

    python examples/run_vlm.py --model M --precision FP16 --num_tokens 64 --backend native|sdpa|plugin \\
        [--cache static_v1] --prompt "…" --image_path a.jpg [--image_path b.jpg] --enable_pytorch_run
    python examples/run_vlm.py --model M --benchmark --iterations 5 --num_tokens 128 [--image_tokens N] [--isl N]

The flags are those of torch_tensorrt's tools/llm/run_vlm.py. Language part and vision tower are separate networks. The
output says what ran them: TensorRT if engines fit this machine's GPU, otherwise reference evaluation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))  # to find examples.running when run as a script

from examples import running
from tt_edge.config import Precision, TowerAttention
from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.multimodal.sources import ImageSource, VideoFile

if TYPE_CHECKING:
    from tt_edge.runtime.llm import LLM

PROMPT = "Describe the picture."


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--prompt", default=PROMPT, help="what to ask (default: %(default)s)")
    add(
        "--image_path",
        action="append",
        default=[],
        metavar="FILE",
        help="an image, before the prompt; may be repeated",
    )
    add(
        "--video_frames",
        nargs="+",
        metavar="FILE",
        help="for Qwen-VL models: image files that are the frames of a video",
    )
    add("--video_path", metavar="FILE", help="a video; its frames are chosen as the processor does")
    add(
        "--fps",
        type=float,
        help="frames per second of --video_frames (default 2), or to take of --video_path (default: the processor's, or 2)",
    )
    running.add_options(parser, num_tokens=64)
    add(
        "--image_tokens",
        type=int,
        metavar="N",
        help="how many of the --isl tokens are image tokens (default: those of a medium-sized image)",
    )
    add("--vision_attention", default="native", choices=list(TowerAttention), help="of the tower (default: native)")
    add("--max_image_tokens", type=int, metavar="N", help="room for image tokens (default: what this run needs)")
    add("--exact_images", action="store_true", help="refuse images that would have to be scaled to fit")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Refuse invalid combinations of options before anything is loaded."""
    running.check(args)
    if args.num_tokens < 1 or args.isl < 1 or (args.image_tokens is not None and args.image_tokens < 0):
        raise InvalidInputError("--num_tokens and --isl must be at least 1, and --image_tokens at least 0")
    if args.video_frames and args.video_path:
        raise InvalidInputError("--video_frames and --video_path are both given; give one")
    for path in [*args.image_path, *(args.video_frames or [])]:  # before compiling, which takes minutes
        if not Path(path).is_file():
            raise InvalidInputError(f"image {path} does not exist; give a file")
    if args.video_path and not Path(args.video_path).is_file():
        raise InvalidInputError(f"video {args.video_path} does not exist; give a file")


def sources(args: argparse.Namespace, patch_size: int = 14) -> list[ImageSource]:
    """The images of the prompt, and the video: a file, or frames as qwen-vl-utils prepares them."""
    found: list[ImageSource] = list(args.image_path)
    if args.video_frames:
        from tt_edge.compile.parity.images.pytorch_videos import prepare_frames

        found.append(prepare_frames(args.video_frames, 2.0 if args.fps is None else args.fps, patch_size))
    if args.video_path:
        found.append(VideoFile(args.video_path, args.fps))
    return found


def messages(args: argparse.Namespace) -> list[dict]:
    parts = [{"type": "image"} for _ in args.image_path]
    parts += [{"type": "video"}] if args.video_frames or args.video_path else []
    return [{"role": "user", "content": [*parts, {"type": "text", "text": args.prompt}]}]


def compile_bundle(args: argparse.Namespace, output: Path) -> None:
    """Compile ``--model`` for just this run, unless limits are given."""
    from tt_edge.compile.checkpoint import Checkpoint
    from tt_edge.compile.vision.crossed.reference import rows_of_image

    tower = {"max_image_tokens": args.max_image_tokens, "vision_attention": args.vision_attention}
    if not args.benchmark:
        given = sources(args, patch_size(args))
        running.compile_bundle(args, output, input_tokens=count_tokens(args), images=given, **tower)
        return
    if args.max_image_tokens is None:
        rows = rows_of_image(Checkpoint.open(args.model).settings)  # an image is one token of the prompt
        tower["max_image_tokens"] = rows or args.image_tokens or args.isl // 2
    running.compile_bundle(args, output, input_tokens=args.isl, **tower)


def patch_size(args: argparse.Namespace) -> int:
    """That of the checkpoint's image processor, with which qwen-vl-utils sizes frames."""
    from tt_edge.compile.checkpoint import Checkpoint
    from tt_edge.compile.parity.images.pytorch_vlm import processor_of

    found = getattr(getattr(processor_of(Checkpoint.open(args.model)), "image_processor", None), "patch_size", None)
    return found if isinstance(found, int) else 14


def count_tokens(args: argparse.Namespace) -> int:
    """The number of tokens of the prompt, according to the checkpoint's own processor."""
    from tt_edge.compile.checkpoint import Checkpoint
    from tt_edge.compile.parity.images.pytorch_vlm import processor_inputs, processor_of

    checkpoint = Checkpoint.open(args.model)
    processor = processor_of(checkpoint)
    if processor is None:  # Eagle 2 and VILA
        text, images = checkpoint.tokenizer(args.prompt).input_ids, max(1, len(args.image_path))
        return len(text) + 64 + checkpoint.config.most_image_tokens(images) + 16 * images
    prompt = args.prompt
    if processor.chat_template:
        prompt = processor.apply_chat_template(messages(args), tokenize=False, add_generation_prompt=True)
    return len(processor_inputs(processor, prompt, sources(args, patch_size(args)))["input_ids"][0])


def run(args: argparse.Namespace) -> int:
    """0, or 1 when outputs were compared and differ."""
    from tt_edge.runtime.llm import LLM

    check(args)
    with tempfile.TemporaryDirectory(prefix="tt-edge-") as scratch:
        bundle = Path(args.from_bundle or args.output or Path(scratch) / "model.ttedge")
        if not args.from_bundle:
            compile_bundle(args, bundle)
        with LLM.load(bundle) as llm:
            if llm.vision is None:
                raise InvalidInputError(f"{bundle} is of a language model, without a vision tower; see run_llm.py")
            if args.exact_images or args.enable_pytorch_run:  # PyTorch gets the images unscaled
                llm.vision = llm.vision.with_exact_images()
            return benchmark(args, llm) if args.benchmark else compare(args, llm)


def compare(args: argparse.Namespace, llm: LLM) -> int:
    """Ask the compiled model and, if requested, PyTorch; print both."""
    assert llm.vision is not None
    images = sources(args, getattr(llm.vision.processor.image_processor, "patch_size", 14))
    chat = llm.chat_template is not None and not (images and llm.vision.processor.placeholders.are_in(args.prompt))
    prompt = llm.apply_chat_template(messages(args)) if chat else args.prompt
    config = GenerationConfig(max_new_tokens=args.num_tokens)
    [ours] = llm.generate([prompt], config, add_special_tokens=not chat, images=[images])
    for note in ours.notes:
        print(note, file=sys.stderr)
    theirs = None
    if args.enable_pytorch_run:
        from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM

        baseline = PyTorchVLM(args.model, Precision(args.precision.lower()))
        their_prompt = baseline.chat_prompt(llm, messages(args)) if chat else prompt
        inputs = baseline.inputs(llm, their_prompt, images, add_special_tokens=not chat)
        theirs = baseline.continue_greedily(inputs, args.num_tokens)
        running.show("PyTorch", llm.tokenizer.decode(theirs), baseline.word)
        same = inputs["input_ids"][0].tolist() == list(ours.input_ids)
    running.show("TensorRT", ours.text, llm.session.word)
    if theirs is None:
        return 0
    print(f"PyTorch and TensorRT prompts match: {same} ({len(ours.input_ids)} tokens)")
    return running.show_match(args, theirs, ours.new_token_ids) or int(not same)


def benchmark(args: argparse.Namespace, llm: LLM) -> int:
    """Measure speed on a random image in random text and print a table."""
    from tt_edge.runtime.benchmark.local import measure_images
    from tt_edge.runtime.benchmark.tables import vision_table
    from tt_edge.runtime.benchmark.vision import random_picture, random_prompt
    from tt_edge.runtime.benchmark.workload import Plan

    assert llm.vision is not None
    contract = llm.vision.encoder.session.contract
    tokens = args.image_tokens
    if tokens is None:
        geometry = contract.tower
        tokens = min(256, contract.max_image_tokens) if geometry.tile_size is None else geometry.least_image_tokens
    images = [random_picture(contract, tokens)] if tokens else []
    ids = random_prompt(llm, args.isl, tokens)
    plan, measured = Plan(args.isl, args.num_tokens, runs=args.iterations), []
    if args.enable_pytorch_run:
        from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM, model_inputs

        baseline = PyTorchVLM(args.model, Precision(args.precision.lower()))
        measured.append(baseline.measure_images(model_inputs(baseline.model, [ids], images), plan))
        del baseline
    measured.append(measure_images(llm, ids, images, plan))
    print(
        f"\n{args.isl} input tokens, {tokens} of them image tokens, {args.num_tokens} new, median of {args.iterations} runs"
    )
    print(vision_table(measured))
    return 0


def main(argv: list[str] | None = None) -> int:
    return running.guarded("run_vlm.py", run, parse(argv))


if __name__ == "__main__":
    sys.exit(main())
