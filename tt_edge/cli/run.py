"""Generate text with a bundle: by an engine in it that fits this machine, or else by evaluating its network in NumPy.
Needs no PyTorch."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from tt_edge.cli.options import (
    add_image_cache,
    add_require_signature,
    add_runtime,
    add_sampling,
    image_cache_bytes,
    runtime_of,
    sampling_of,
)
from tt_edge.cli.terminal import safe

if TYPE_CHECKING:
    from tt_edge.runtime.seq2seq.source import Speech
    from tt_edge.runtime.seq2seq.transcription import Transcript

_NEW_TOKENS = 64


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", help="a bundle written by tt-edge compile")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be given several times")
    parser.add_argument(
        "--audio",
        action="append",
        default=[],
        metavar="FILE",
        help="for a speech model, instead of --prompt: a sound file to write down; may be given several times",
    )
    parser.add_argument(
        "--language", metavar="CODE", help="the language of --audio, such as de (default: it is detected)"
    )
    parser.add_argument("--task", help="with --audio: transcribe (the default) or translate, to English")
    parser.add_argument(
        "--timestamps", action="store_true", help="with --audio: segments with times; speech may be of any length"
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="FILE",
        help="for a vision-language model: an image for the prompt, before its text; may be repeated; implies --chat",
    )
    parser.add_argument(
        "--video",
        action="append",
        default=[],
        metavar="FILE",
        help="a video, before the text, of which the checkpoint's rule takes frames, for a model that takes videos; implies --chat",
    )
    parser.add_argument(
        "--video-fps",
        type=float,
        metavar="N",
        help="frames to take of each second of --video (default: the checkpoint's, or 2)",
    )
    parser.add_argument(
        "--exact-images",
        action="store_true",
        help="refuse images that would have to be scaled to fit the compiled model",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help=f"maximum tokens of an answer (default {_NEW_TOKENS}, or half of the bundle's max_seq_len where that is less)",
    )
    add_runtime(parser)
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    parser.add_argument("--system", metavar="TEXT", help="a system message; implies --chat")
    parser.add_argument("--ignore-eos", action="store_true", help="go on past the end-of-sequence token")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before TEXT; may be repeated")
    parser.add_argument(
        "--logprobs", type=int, metavar="N", help="with --json: log-probabilities of the tokens and of the N likeliest"
    )
    parser.add_argument("--json", action="store_true", help="print ids, text and timing of every prompt as a JSON list")
    add_sampling(parser)
    add_image_cache(parser)
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Generate; text goes to stdout, a line about how it was made to stderr."""
    from tt_edge.generation_config import GenerationConfig
    from tt_edge.runtime import LLM

    given: dict[str, Any] = {
        "max_new_tokens": _NEW_TOKENS if args.max_new_tokens is None else args.max_new_tokens,
        "ignore_eos": args.ignore_eos,
        "stop": tuple(args.stop),
        "logprobs": args.logprobs,
        **sampling_of(args),
    }
    GenerationConfig(**given)  # an error before anything is loaded
    speech = _speech(args)
    cache = image_cache_bytes(args)
    with LLM.load(args.bundle, runtime_of(args), args.require_signature, image_cache_bytes=cache) as llm:
        if args.exact_images and llm.vision is not None:
            llm.vision = llm.vision.with_exact_images()
        if args.max_new_tokens is None:
            given["max_new_tokens"] = min(_NEW_TOKENS, llm.session.contract.max_seq_len // 2)
        config = llm.config(**given)
        if args.timestamps:
            return _show_transcripts([llm.transcribe(each, config, timestamps=True) for each in speech], args)
        placed = llm.vision is not None and not speech and llm.vision.processor.placeholders.are_in(args.prompt[0])
        media = _media(args)
        chat = args.chat or args.system is not None or bool(media and not placed and llm.chat_template is not None)
        prompts = [llm.render_chat(_messages(p, args)) for p in args.prompt] if chat else speech or args.prompt
        images = [media] * len(prompts) if media else None
        streaming = len(prompts) == 1 and not args.json

        # What an encoder-decoder answers does not continue its text.
        apart = chat or llm.source is not None
        shown = "" if apart else args.prompt[0]  # with the first token: before that, an error would stand on its line

        def show(_index: int, text: str) -> None:
            nonlocal shown
            print(safe(shown + text, sys.stdout), end="", flush=True)
            shown = ""

        results = llm.generate(prompts, config, show if streaming else None, images=images)
        word = llm.session.word
    if args.json:
        import json

        print(json.dumps([result.to_dict() for result in results], indent=2, ensure_ascii=False))
        return 0
    if streaming:
        print(shown)
    else:
        for number, (asked, result) in enumerate(zip(args.audio or args.prompt, results, strict=True), 1):
            print(safe(f"[{number}] {asked}{' → ' if apart else ''}{result.text}", sys.stdout))
    for note in dict.fromkeys(note for result in results for note in result.notes):
        print(note, file=sys.stderr)
    tokens = sum(len(result.new_token_ids) for result in results)
    seconds = max(result.timing.ttft_s + result.timing.decode_s for result in results)
    first = min(result.timing.ttft_s for result in results)
    print(
        f"{tokens} tokens in {seconds:.2f} s ({tokens / seconds:.1f} tokens/s), first after {first * 1000:.0f} ms; {word}",
        file=sys.stderr,
    )
    return 0


def _show_transcripts(transcripts: list[Transcript], args: argparse.Namespace) -> int:
    """Print what was written down, segment by segment."""
    if args.json:
        import dataclasses
        import json

        rows = [
            {**dataclasses.asdict(found), "text": found.text, "new_token_ids": found.token_ids} for found in transcripts
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    for number, (file, found) in enumerate(zip(args.audio, transcripts, strict=True), 1):
        if len(transcripts) > 1:
            print(safe(f"[{number}] {file}", sys.stdout))
        for segment in found.segments:
            print(safe(f"{segment.start:.2f} to {segment.end:.2f} s: {segment.text.strip()}", sys.stdout))
    return 0


def _speech(args: argparse.Namespace) -> list[Speech]:
    """The files of ``--audio``. Raises ``InvalidInputError`` for options that say nothing together."""
    from tt_edge.errors import InvalidInputError
    from tt_edge.runtime.audio import load_audio
    from tt_edge.runtime.seq2seq.source import Speech

    if args.video_fps is not None and not args.video:
        raise InvalidInputError("--video-fps is for --video; omit it")
    if args.image and not args.prompt and not args.audio:
        args.prompt = [""]  # a model that reads pages needs no text
    if bool(args.prompt) == bool(args.audio):
        raise InvalidInputError("give --prompt TEXT, or --audio FILE for a speech model, and not both")
    if not args.audio and (args.language or args.task or args.timestamps):
        raise InvalidInputError("--language, --task and --timestamps are for --audio; omit them")
    if args.audio and (args.chat or args.system is not None or args.image or args.video):
        raise InvalidInputError("--chat, --system, --image and --video are for --prompt; omit them")
    return [Speech(load_audio(file), args.language, args.task) for file in args.audio]


def _messages(prompt: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The chat that ``--system``, ``--image``, ``--video`` and one ``--prompt`` make."""
    system = [] if args.system is None else [{"role": "system", "content": args.system}]
    images = [{"type": "image", "image": file} for file in args.image]
    videos = [{"type": "video", "video": file, "fps": args.video_fps} for file in args.video]
    parts = [*images, *videos, {"type": "text", "text": prompt}]
    return [*system, {"role": "user", "content": parts if images or videos else prompt}]


def _media(args: argparse.Namespace) -> list[Any]:
    """The files of ``--image`` and ``--video``, in the order of a chat."""
    from tt_edge.runtime.multimodal.sources import VideoFile

    return [*args.image, *(VideoFile(file, args.video_fps) for file in args.video)]
