"""Measure speed: of a bundle in this process, or with --server of any server with OpenAI's endpoints. Shows time to first token
(TTFT), time per output token (TPOT), inter-token latency (ITL), tokens per second, memory, and energy where it can be measured.
Needs no PyTorch, except for --against hf."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tt_edge.cli.options import add_require_signature, check_output
from tt_edge.cli.terminal import safe

if TYPE_CHECKING:
    from tt_edge.runtime.benchmark.records import Measured
    from tt_edge.runtime.benchmark.workload import Plan
    from tt_edge.runtime.llm import LLM

T = TypeVar("T")
#: Of each prompt, and to generate, if not given and the bundle's limits allow it.
TOKENS = 128
#: Runs that count, if not given.
RUNS = 5
#: Of --rate, if not given.
REQUESTS, BURST = 32, 4
#: Of --agentic, if not given.
TURNS, PREFIX, TURN_TOKENS = 6, 1024, 64
#: Of --server, if not given.
TIMEOUT_S = 600.0
_KEY = "TT_EDGE_API_KEY"


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", nargs="?", help="a bundle written by tt-edge compile")
    parser.add_argument(
        "--isl", type=int, metavar="N", help=f"input tokens of a request (default {TOKENS}, or what fits)"
    )
    parser.add_argument("--osl", type=int, metavar="N", help=f"tokens to generate (default {TOKENS}, or what fits)")
    parser.add_argument(
        "--batch",
        "--concurrency",
        type=int,
        metavar="N",
        help="requests at the same time (default 1; with --rate: the bundle's slots, or for a server no limit)",
    )
    parser.add_argument("--warmup", type=int, default=1, metavar="N", help="runs that do not count (default 1)")
    parser.add_argument("--runs", type=int, metavar="N", help=f"runs that count (default {RUNS})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of prompts, lengths and arrivals (default 0)")
    parser.add_argument("--runtime", help="auto (the default), tensorrt or reference")
    parser.add_argument("--against", choices=["hf"], help="also measure transformers in PyTorch on the same prompts")
    parser.add_argument("--model", metavar="M", help="with --against: the checkpoint; with --server: the model's name")
    parser.add_argument(
        "--image-tokens", type=int, default=0, metavar="N", help="so many of --isl are of a random image"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="also write the JSON there, for tt-edge report"
    )
    rate = parser.add_argument_group("requests that arrive by themselves")
    rate.add_argument("--rate", type=float, metavar="R", help="requests per second; inf: all at once")
    rate.add_argument("--requests", type=int, metavar="N", help=f"how many (default {REQUESTS})")
    rate.add_argument("--arrivals", metavar="HOW", help="poisson (the default), constant or burst")
    rate.add_argument("--burst", type=int, metavar="N", help=f"requests of one burst (default {BURST})")
    for name, what in (("isl", "input"), ("osl", "output")):
        rate.add_argument(
            f"--{name}-dist",
            default="fixed",
            metavar="D",
            help=f"{what} lengths: fixed, uniform:S, normal:S or lognormal:S, with spread S relative to --{name}",
        )
    agentic = parser.add_argument_group("conversations")
    agentic.add_argument(
        "--agentic",
        action="store_true",
        help="--batch conversations of many turns that share a long prefix; shows how much of it is reused",
    )
    agentic.add_argument("--turns", type=int, metavar="N", help=f"of a conversation (default {TURNS})")
    agentic.add_argument(
        "--prefix-tokens", type=int, metavar="N", help=f"shared tokens (default {PREFIX}, or what fits)"
    )
    server = parser.add_argument_group("a server")
    server.add_argument("--server", metavar="URL", help="measure this server instead of a bundle")
    server.add_argument("--endpoint", choices=["chat", "completions"], help="default: completions")
    server.add_argument(
        "--image-size", metavar="WxH", help="put an image of that many pixels before each prompt, such as 448x448"
    )
    server.add_argument("--api-key", metavar="KEY", help=f"or set {_KEY}, which other users of the machine do not see")
    server.add_argument(
        "--timeout", type=float, metavar="S", help=f"seconds without an answer (default {TIMEOUT_S:.0f})"
    )
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table."""
    import json

    from tt_edge.errors import InvalidInputError

    if (args.bundle is None) == (args.server is None):
        raise InvalidInputError("give a bundle or --server, one of the two")
    if not args.agentic and (args.turns is not None or args.prefix_tokens is not None):
        raise InvalidInputError("--turns and --prefix-tokens are for conversations; give --agentic, or omit them")
    check_output("--output", args.output)
    plan, measured = _of_server(args) if args.server is not None else _of_bundle(args)
    facts = {
        "benchmark": args.bundle or args.server,
        "plan": plan.describe(),
        "measured": [each.to_dict() for each in measured],
    }
    text = json.dumps(facts, indent=2)
    if args.output is not None:
        from tt_edge.atomic import replace_file

        replace_file(args.output, text.encode() + b"\n")
    if args.json:
        print(text)
        return 0
    from tt_edge.runtime.benchmark.tables import full_table

    print(safe(f"{plan.describe()}\n\n{full_table(measured)}", sys.stdout))
    return 0


def _plan(args: argparse.Namespace, room: int, slots: int, source_room: int | None = None) -> Plan:
    """The options as a plan, with defaults that fit ``room`` tokens of a sequence and, with --rate, fill ``slots``.

    The input of an encoder-decoder is apart from its answer: it has ``source_room``.
    """
    from tt_edge.errors import InvalidInputError
    from tt_edge.runtime.benchmark.workload import Arrivals, Lengths, Plan

    arrivals = args.arrivals or Arrivals.POISSON
    if arrivals not in list(Arrivals):
        raise InvalidInputError(f"--arrivals is {arrivals!r}; give one of {', '.join(Arrivals)}")
    if args.rate is None and (args.arrivals, args.requests, args.burst) != (None, None, None):
        raise InvalidInputError("--arrivals, --requests and --burst are for requests at a rate; give --rate too")
    if args.rate is not None and args.runs is not None:
        raise InvalidInputError("--runs is for requests that start together; omit it, and give --requests with --rate")
    if args.burst is not None and arrivals != Arrivals.BURST:
        raise InvalidInputError("--burst is for --arrivals burst; give it too, or omit --burst")
    given: dict[str, Any] = {name: getattr(args, name) for name in ("warmup", "seed", "rate", "image_tokens")}
    given |= {"runs": _given(args.runs, RUNS)}
    given |= {"requests": _given(args.requests, REQUESTS), "burst": _given(args.burst, BURST)}
    given |= {"arrivals": Arrivals(arrivals), "batch": args.batch}
    if args.batch is None:
        given["batch"] = 1 if args.rate is None else slots
    given |= {f"{n}_dist": Lengths.parse(getattr(args, f"{n}_dist"), f"--{n}-dist") for n in ("isl", "osl")}
    if args.agentic:
        turns = TURNS if args.turns is None else args.turns
        if turns < 2:
            raise InvalidInputError(f"--turns is {turns}; a conversation has at least 2")
        each = max(2, min(TURN_TOKENS, room // (4 * turns)))
        isl, osl = args.isl or each, args.osl or each
        prefix = args.prefix_tokens
        if prefix is None:
            prefix = max(0, min(PREFIX, room - turns * (isl + osl)))
        return Plan(_given(args.isl, isl), _given(args.osl, osl), prefix=prefix, turns=turns, **given)
    if source_room is not None:
        return Plan(
            _given(args.isl, min(TOKENS, source_room)), _given(args.osl, max(2, min(TOKENS, room - 4))), **given
        )
    isl = _given(args.isl, max(1, min(TOKENS, room // 2)))
    osl = _given(args.osl, max(2, min(TOKENS, room - isl)))
    return Plan(isl, osl, **given)


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _of_bundle(args: argparse.Namespace) -> tuple[Plan, list[Measured]]:
    from tt_edge.errors import InvalidInputError
    from tt_edge.runtime.benchmark.local import measure
    from tt_edge.runtime.llm import LLM

    if args.against and (args.rate is not None or args.agentic):
        raise InvalidInputError("--against hf runs the prompts of one batch; omit --rate and --agentic")
    if args.against and args.image_tokens and args.batch not in (None, 1):
        raise InvalidInputError("--against hf measures one prompt with an image at a time; omit --batch")
    for name in ("endpoint", "image_size", "api_key", "timeout"):
        if getattr(args, name) is not None:
            raise InvalidInputError(f"--{name.replace('_', '-')} is for --server; omit it")
    if args.model is not None and not args.against:
        raise InvalidInputError("--model is for --against hf or --server; omit it, or give one of these")
    _plan(args, 2**20, 1)  # invalid options are refused before anything is loaded
    with LLM.load(args.bundle, args.runtime or "auto", args.require_signature) as llm:
        limits = llm.session.contract
        if llm.source is not None and args.against:
            raise InvalidInputError(
                "--against hf is for language models, and the bundle is of an encoder-decoder; omit it"
            )
        if llm.source is not None and llm.source.has_one_size and args.isl is not None:
            raise InvalidInputError(f"the model's sources, {llm.source.kind}, have one size; omit --isl")
        if llm.source is not None and llm.source.has_one_size:
            args.isl = limits.max_source_len
        plan = _plan(args, limits.max_seq_len, limits.max_batch, limits.max_source_len if llm.source else None)
        measured = [measure(llm, plan)]
        if args.against:
            measured.append(_against_hf(args, llm, plan))
    return plan, measured


def _against_hf(args: argparse.Namespace, llm: LLM, plan: Plan) -> Measured:
    from tt_edge.bundle import Bundle
    from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM, model_inputs
    from tt_edge.compile.parity.references.baseline import PyTorchBaseline
    from tt_edge.runtime.benchmark.local import batch_prompts
    from tt_edge.runtime.benchmark.vision import random_picture, random_prompt

    manifest = Bundle.open(args.bundle, args.require_signature).manifest
    source, precision = args.model or manifest.model.source, manifest.config.network.precision
    if plan.image_tokens:
        assert llm.vision is not None
        vlm = PyTorchVLM(source, precision)
        ids = random_prompt(llm, plan.isl, plan.image_tokens, plan.seed, whole=True)
        picture = random_picture(llm.vision.encoder.session.contract, plan.image_tokens, plan.seed)
        return vlm.measure_images(model_inputs(vlm.model, [ids], [picture]), plan)
    return PyTorchBaseline(source, precision).measure(batch_prompts(llm, plan), plan)


def _of_server(args: argparse.Namespace) -> tuple[Plan, list[Measured]]:
    from tt_edge.errors import InvalidInputError
    from tt_edge.runtime.benchmark.client import OpenAIClient
    from tt_edge.runtime.benchmark.served import MAX_CONCURRENT, ServerBenchmark

    if args.against:
        raise InvalidInputError("--against is for a bundle; omit it, and run tt-edge bench once for each server")
    if args.runtime is not None:
        raise InvalidInputError(f"--runtime {args.runtime} is for a bundle, and a server has its own; omit it")
    if args.require_signature is not None:
        raise InvalidInputError("--require-signature is for a bundle; omit it, and give it to tt-edge serve")
    timeout = _given(args.timeout, TIMEOUT_S)
    if not 0 < timeout <= 1e6:
        raise InvalidInputError(f"--timeout is {timeout:g}; give seconds above 0, up to a million")
    plan, chat = _plan(args, 2**20, MAX_CONCURRENT), args.endpoint == "chat"
    key = args.api_key or os.environ.get(_KEY, "").strip()
    client = OpenAIClient(args.server, args.model, key, chat=chat, timeout=timeout)
    size = None if args.image_size is None else _image_size(args.image_size)
    return plan, [ServerBenchmark(client, plan, chat=chat, image_size=size).measure()]


def _image_size(text: str) -> tuple[int, int]:
    from tt_edge.errors import InvalidInputError

    width, _, height = text.lower().partition("x")
    if not all(side.isascii() and side.isdecimal() and 1 <= int(side) <= 8192 for side in (width, height)):
        raise InvalidInputError(f"--image-size is {text!r}; give width and height from 1 to 8192, such as 448x448")
    return int(width), int(height)
