"""Translate, summarise, transcribe or read a page with an encoder-decoder, and compare with PyTorch.

    python examples/run_seq2seq.py --model google/flan-t5-small --text "translate English to German: The light is red." \\
        [--num_tokens 64] [--num_beams 4] [--precision FP16] [--backend native|sdpa] --enable_pytorch_run
    python examples/run_seq2seq.py --model facebook/bart-large-cnn --text "A long text …"
    python examples/run_seq2seq.py --model openai/whisper-tiny --audio speech.wav [--language de] [--task translate]
    python examples/run_seq2seq.py --model facebook/nougat-small --image page.png
    python examples/run_seq2seq.py --model naver-clova-ix/donut-base-finetuned-cord-v2 --image receipt.jpg --text "<s_cord-v2>"

The output says what ran the networks: TensorRT if engines fit this machine's GPU, otherwise reference evaluation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))  # to find examples.running when run as a script

from examples import running
from tt_edge.config import Backend, Precision
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.audio import load_audio
from tt_edge.runtime.multimodal.images import pixels_of
from tt_edge.runtime.seq2seq.source import Speech

if TYPE_CHECKING:
    from tt_edge.runtime.llm import LLM

TEXT = "translate English to German: The light ahead is red."


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", help="checkpoint folder or hub id; with --from_bundle, only for --enable_pytorch_run")
    add("--text", help=f"the text to answer to (default: {TEXT!r})")
    add("--audio", metavar="FILE", help="for a speech model: a sound file to write down")
    add(
        "--image",
        metavar="FILE",
        help="for a model that reads pages: an image; the answer begins with --text, if it is given",
    )
    add("--language", metavar="CODE", help="the language of --audio (default: it is detected)")
    add("--task", choices=["transcribe", "translate"], help="with --audio (default: transcribe)")
    add("--num_tokens", type=int, default=64, metavar="N", help="new tokens (default 64)")
    add("--num_beams", type=int, default=1, metavar="N", help="beam search of this width, up to 8 (default 1: greedy)")
    add("--backend", default="native", choices=[Backend.NATIVE, Backend.SDPA], help="how attention is compiled")
    add("--cache", choices=["static_v1", "static_v2"], help="KV cache of the sdpa backend (default: none)")
    add("--precision", default="FP16", type=str.upper, choices=["FP16", "BF16", "FP32"])
    add("--enable_pytorch_run", action="store_true", help="run PyTorch too, and compare")
    add("--engine", metavar="TARGETS", help="sm89,sm120, local or none (default: local where there is a GPU)")
    add("--output", metavar="DIR", help="keep the bundle here")
    add("--from_bundle", metavar="DIR", help="run this bundle; nothing is compiled")
    add("--debug", action="store_true", help="tracebacks, and TensorRT's messages")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Refuse invalid combinations of options before anything is loaded."""
    if not args.from_bundle and not args.model:
        raise InvalidInputError("nothing to run; give --model or --from_bundle")
    if args.enable_pytorch_run and not args.model:
        raise InvalidInputError("--enable_pytorch_run needs the checkpoint; give --model beside --from_bundle")
    if args.text is not None and args.audio:
        raise InvalidInputError("give --text or --audio, not both")
    if args.image and args.audio:
        raise InvalidInputError("give --image or --audio, not both")
    if args.num_tokens < 1:
        raise InvalidInputError(f"--num_tokens is {args.num_tokens}; give at least 1")


def compile_bundle(args: argparse.Namespace, output: Path) -> None:
    """Compile ``--model``, with room for the answer."""
    import torch

    from tt_edge.compile.pipeline import compile_checkpoint
    from tt_edge.config import CompileConfig, EngineTarget

    capacity = args.num_tokens + 8  # the beginning of an answer has up to four tokens
    config = CompileConfig.of(
        backend=args.backend,
        cache=args.cache,
        precision=args.precision.lower(),
        max_batch=args.num_beams,
        max_input_len=capacity,
        max_seq_len=capacity,
    )
    target = EngineTarget.parse(args.engine or ("local" if torch.cuda.is_available() else "none"))
    print(compile_checkpoint(args.model, output, config, target, fit_length=True, overwrite=True).render())


def run(args: argparse.Namespace) -> int:
    """0, or 1 when outputs were compared and differ."""
    from tt_edge.runtime.llm import LLM

    check(args)
    audio = load_audio(args.audio) if args.audio else None
    with tempfile.TemporaryDirectory(prefix="tt-edge-") as scratch:
        bundle = Path(args.from_bundle or args.output or Path(scratch) / "model.ttedge")
        if not args.from_bundle:
            compile_bundle(args, bundle)
        with LLM.load(bundle) as llm:
            if llm.source is None:
                raise InvalidInputError(f"{bundle} is not of an encoder-decoder; see run_llm.py")
            text = (args.text or "") if args.image else (args.text or TEXT)
            prompt = text if audio is None else Speech(audio, args.language, args.task)
            return compare(args, llm, prompt)


def compare(args: argparse.Namespace, llm: LLM, prompt: str | Speech) -> int:
    """Answer with the compiled model and, if requested, with PyTorch; print both."""
    images = [[args.image]] if args.image else None
    config = llm.config(max_new_tokens=args.num_tokens, num_beams=args.num_beams)
    [ours] = llm.generate([prompt], config, images=images)
    theirs = None
    if args.enable_pytorch_run:
        has_text = llm.source is not None and llm.source.takes_text
        theirs = pytorch_answer(args, prompt, ours.input_ids, has_text=has_text)
        running.show("PyTorch", llm.tokenizer.decode(theirs), "transformers' generate() on the CPU")
    running.show("TensorRT", ours.text, llm.session.word)
    if theirs is None:
        return 0
    args.quant_format = None
    return running.show_match(args, theirs, ours.new_token_ids)


def pytorch_answer(args: argparse.Namespace, prompt: str | Speech, start: list[int], *, has_text: bool) -> list[int]:
    """New tokens of ``generate()``, which follow ``start``, for a text, speech, a page, or an image and a text
    (``has_text``), that transformers prepares."""
    import torch
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, WhisperForConditionalGeneration

    from tt_edge.compile.checkpoint import Checkpoint
    from tt_edge.compile.parity.references.loading import load_reference

    checkpoint = Checkpoint.open(args.model)
    model = load_reference(checkpoint, Precision(args.precision.lower()))
    search = {"max_new_tokens": args.num_tokens, "num_beams": args.num_beams, "do_sample": False}
    if args.image and has_text:
        inputs = AutoProcessor.from_pretrained(checkpoint.folder)(
            images=pixels_of(args.image), text=prompt, return_tensors="pt"
        )
        given = {name: t.to(model.dtype) if t.is_floating_point() else t for name, t in inputs.items()}
        return model.generate(**given, **search)[0, len(start) :].tolist()
    if args.image:
        processor = AutoImageProcessor.from_pretrained(checkpoint.folder)
        pixels = processor(pixels_of(args.image), return_tensors="pt").pixel_values.to(model.dtype)
        out = model.generate(pixels, decoder_input_ids=torch.tensor([start]), **search)
        return out[0, len(start) :].tolist()
    if isinstance(prompt, str):
        inputs = checkpoint.tokenizer(prompt, return_tensors="pt")
        out = model.generate(inputs.input_ids, attention_mask=inputs.attention_mask, **search)
    else:
        extractor = AutoFeatureExtractor.from_pretrained(checkpoint.folder)
        audio = prompt.audio
        made = extractor(audio.samples, sampling_rate=audio.rate, return_tensors="pt")
        features = {name: t.to(model.dtype) if t.is_floating_point() else t for name, t in made.items()}
        asked = {name: value for name in ("language", "task") if (value := getattr(prompt, name)) is not None}
        if isinstance(model, WhisperForConditionalGeneration):
            asked["force_unique_generate_call"] = True
        out = model.generate(**features, **search, **asked)
    tokens: list[int] = out[0].tolist()
    begun = tokens[: len(start)] == start  # Whisper's generate() may return only what is new
    return tokens[len(start) :] if begun else tokens


def main(argv: list[str] | None = None) -> int:
    return running.guarded("run_seq2seq.py", run, parse(argv))


if __name__ == "__main__":
    sys.exit(main())
