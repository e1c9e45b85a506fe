"""Talk with a bundle in the terminal. Earlier turns stay in the KV cache, so each turn computes only what is new in it.
Needs no PyTorch."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

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

_HELP = """\
/image FILE    attach an image to the next message (vision-language models); may be repeated
/reset         start over, with the same system prompt
/system TEXT   start over with TEXT as the system prompt; without TEXT, with none
/help          this
/exit          leave (so does Ctrl-D)
Ctrl-C stops an answer. A line that ends with \\ goes on in the next one."""


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", help="a bundle written by tt-edge compile")
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")
    parser.add_argument(
        "--max-new-tokens", type=int, default=1024, metavar="N", help="maximum tokens of an answer (default 1024)"
    )
    add_runtime(parser)
    parser.add_argument(
        "--prefix-cache",
        type=Path,
        metavar="FILE",
        help="keep the keys and values of --system there for the next start",
    )
    add_sampling(parser)
    add_image_cache(parser)
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Read, answer, repeat, until the end of the input."""
    from tt_edge.cli.prefixes import precompute
    from tt_edge.runtime.llm import LLM
    from tt_edge.runtime.text.conversation import Conversation

    cache = image_cache_bytes(args)
    with LLM.load(args.bundle, runtime_of(args), args.require_signature, image_cache_bytes=cache) as llm:
        config = llm.config(max_new_tokens=args.max_new_tokens, **sampling_of(args))
        conversation = Conversation(llm, args.system, config)
        llm.render_chat([*conversation.messages, {"role": "user", "content": "?"}])  # an error at once, if any
        if args.prefix_cache is not None:
            precompute(llm, args.system, args.prefix_cache)
        if sys.stdin.isatty():
            print(safe(f"{llm.name}: {llm.session.word}. /help lists the commands.", sys.stderr), file=sys.stderr)
        images: list[str] = []  # of the next message
        while (text := _read()) is not None:
            if text.split(maxsplit=1)[0] == "/image":
                _attach(llm, text.removeprefix("/image").strip(), images)
            elif text.startswith("/"):
                if _obey(conversation, text):
                    images.clear()
            else:
                _answer(conversation, text, images)
                images.clear()
            if text in ("/exit", "/quit"):
                break
    return 0


def _read() -> str | None:
    """A line of the user's, or several joined by backslashes; ``None`` at the end."""
    lines: list[str] = []
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401 (editing and history in input())
    while True:
        try:
            line = input(("… " if lines else "> ") if terminal else "")
        except EOFError:
            if terminal:
                print(file=sys.stderr)
            return None if not lines else "\n".join(lines)
        except KeyboardInterrupt:  # forget the line, as shells do
            print(file=sys.stderr)
            lines.clear()
            continue
        lines.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            if text := "\n".join(lines).strip():
                return text
            lines.clear()


def _obey(conversation: object, text: str) -> bool:
    """Do what a command says; whether a new conversation begins."""
    from tt_edge.runtime.text.conversation import Conversation

    assert isinstance(conversation, Conversation)
    command, _, rest = text.partition(" ")
    if command in ("/reset", "/system"):
        conversation.reset()
        if command == "/system":
            conversation.system = rest.strip() or None
        print("(a new conversation)", file=sys.stderr)
        return True
    if command not in ("/exit", "/quit"):
        print(_HELP if command == "/help" else f"there is no {command}\n{_HELP}", file=sys.stderr)
    return False


def _attach(llm: object, file: str, images: list[str]) -> None:
    """Read an image now, so that an error stands beside its command."""
    from tt_edge.errors import TTEdgeError
    from tt_edge.runtime.llm import LLM

    assert isinstance(llm, LLM)
    if llm.vision is None:
        print("tt-edge: this model takes no images; chat with a vision-language model's bundle", file=sys.stderr)
        return
    if not file:
        print("tt-edge: no image is named; give one, /image FILE", file=sys.stderr)
        return
    file = os.path.expanduser(file)
    try:
        processor = llm.vision.processor
        tokens = processor.preprocess(file).kept(processor.keep)
    except TTEdgeError as error:
        print(safe(f"tt-edge: {error}", sys.stderr), file=sys.stderr)
        return
    images.append(file)
    print(f"(attached {Path(file).name}, {tokens} tokens)", file=sys.stderr)


def _show(piece: str) -> None:
    print(safe(piece, sys.stdout), end="", flush=True)


def _answer(conversation: object, text: str, images: Sequence[str]) -> None:
    """Print the answer as it comes. Ctrl-C ends it, and not the program."""
    from tt_edge.errors import CapacityError, InvalidInputError
    from tt_edge.runtime.text.conversation import Conversation

    assert isinstance(conversation, Conversation)
    stopped = False

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:  # the second time: a step takes too long to wait for
            raise KeyboardInterrupt
        stopped = True

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        completion = conversation.say(text, _show, lambda: stopped, images)
    except (CapacityError, InvalidInputError) as error:
        print(safe(f"tt-edge: {error}", sys.stderr), file=sys.stderr)
        return
    finally:
        signal.signal(signal.SIGINT, before)
    print()
    for warning in completion.notes:
        print(f"({warning})", file=sys.stderr)
    if sys.stdin.isatty():
        timing, tokens = completion.timing, len(completion.input_ids)
        speed = f"{timing.new_tokens} tokens, {timing.tokens_per_s:.1f}/s, first after {timing.ttft_s * 1000:.0f} ms"
        note = (
            "; stopped" if stopped else "; cut off at --max-new-tokens" if completion.finish_reason == "length" else ""
        )
        print(f"({speed}; {completion.cached_tokens} of {tokens} were in the cache{note})", file=sys.stderr)
