"""Predict how fast a model runs on named devices: each layer's bytes, operations and time, for a prompt and for one token more.
The prediction is computed from published bandwidths and peaks; nothing is executed. The model is a bundle's captured network, or a
config.json, for which no weights are needed. With --run, the bundle's engine is executed on this machine instead, and TensorRT's
profiler gives the time of each of its layers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tt_edge.cli.options import add_require_signature

if TYPE_CHECKING:
    from tt_edge.roofline import Operation, Prediction
    from tt_edge.runtime.benchmark.layers import PhaseTimes

#: The default of --isl, if the bundle's limits allow it.
PROMPT = 2048


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", nargs="?", help="a bundle with its network, compiled with --backend native")
    parser.add_argument("--config", type=Path, metavar="JSON", help="instead of a bundle: a dense model's config.json")
    parser.add_argument(
        "--format", default="fp16", help="with --config: fp16 (the default), fp8, int8_sq, int8_wo, int4_awq or nvfp4"
    )
    parser.add_argument("--device", action="append", metavar="NAME", help="such as thor; repeatable (default: all)")
    parser.add_argument("--isl", type=int, metavar="N", help=f"tokens of each prompt (default: {PROMPT}, or the limit)")
    parser.add_argument("--past", type=int, metavar="N", help="cached tokens while decoding (default: --isl)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="sequences at the same time (default: 1)")
    parser.add_argument("--host-us", type=float, metavar="US", help="microseconds of the host per step (default: 100)")
    parser.add_argument("--layers", action="store_true", help="every layer, for each device")
    parser.add_argument(
        "--run", action="store_true", dest="execute", help="execute the bundle's engine here, and time its layers"
    )
    parser.add_argument("--runs", type=int, metavar="N", help="with --run: steps of each kind (default: 20)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Predict; a table."""
    import sys

    from tt_edge.cli.terminal import safe
    from tt_edge.errors import InvalidInputError
    from tt_edge.roofline import DEVICES, Step, find_device, predict
    from tt_edge.roofline.predict import HOST_S

    if (args.bundle is None) == (args.config is None):
        raise InvalidInputError("give a bundle or --config, one of the two")
    if args.execute:
        return _run_engine(args)
    if args.runs is not None:
        raise InvalidInputError("--runs is for --run; omit it, or add --run")
    if args.host_us is not None and not 0 <= args.host_us < 1e9:
        raise InvalidInputError(f"--host-us is {args.host_us}; give 0 or more")
    host_s = HOST_S if args.host_us is None else args.host_us / 1e6
    devices = [find_device(name) for name in args.device or DEVICES]
    operations, limits = _operations(args)
    isl, past = _lengths(args, limits)
    steps = {"prefill": Step(args.batch, isl, 0), "decode": Step(args.batch, 1, past)}
    rows, refused = [], {}
    for device in devices:
        try:
            rows.append({phase: predict(operations, device, step, host_s) for phase, step in steps.items()})
        except InvalidInputError as error:
            if args.device:
                raise
            refused[device.name] = str(error)
    if args.json:
        import json

        print(json.dumps({"devices": [_facts(row) for row in rows], "refused": refused}, indent=2))
    else:
        print(safe(render(rows, refused, args.layers), sys.stdout))
    return 0


def _run_engine(args: argparse.Namespace) -> int:
    """Execute the engine; a table of its layers' times."""
    import json
    import sys

    from tt_edge.bundle import Bundle
    from tt_edge.bundle.manifest import DECODER
    from tt_edge.cli.terminal import safe
    from tt_edge.errors import EngineError, InvalidInputError
    from tt_edge.runtime.benchmark.layers import measure_layers
    from tt_edge.runtime.engine.choose import open_part
    from tt_edge.runtime.engine.tensorrt_session import TensorRTSession

    for flag, value in (("--config", args.config), ("--device", args.device), ("--host-us", args.host_us)):
        if value is not None:
            raise InvalidInputError(f"{flag} is for predictions, and --run executes an engine; omit one of the two")
    runs = 20 if args.runs is None else args.runs
    if runs < 1:
        raise InvalidInputError(f"--runs is {runs}; give at least 1")
    bundle = Bundle.open(args.bundle, args.require_signature)
    contract = bundle.manifest.contract
    isl, past = _lengths(args, (contract.max_batch, contract.max_input_len, contract.max_seq_len))
    with open_part(bundle, DECODER, "tensorrt") as session:
        if not isinstance(session, TensorRTSession):
            raise EngineError("layers are timed in an engine of TensorRT; build one here with `tt-edge build`")
        word, found = session.word, measure_layers(session, args.batch, isl, past, runs)
    if args.json:
        facts = {phase: times.to_dict() for phase, times in found.items()}
        print(json.dumps({"bundle": args.bundle, "word": word, "batch": args.batch, "runs": runs, **facts}, indent=2))
    else:
        print(safe(render_times(found, args.batch, runs, word, args.layers), sys.stdout))
    return 0


def render_times(found: dict[str, PhaseTimes], batch: int, runs: int, word: str, layers: bool) -> str:
    """The slowest layers of each phase, or with ``layers`` all, in the engine's order."""
    lines = []
    for phase, times in found.items():
        lines += [
            f"{phase}: batch {batch}, {times.new_tokens:,} new tokens behind {times.past_tokens:,}; "
            f"a step takes {times.step_ms:.3f} ms, "
            f"its {len(times.layers):,} layers {times.layers_ms:.3f} ms under the profiler",
            f"{'us':>10}{'share':>8}  layer",
        ]
        shown = list(times.layers.items())
        if not layers:
            shown = sorted(shown, key=lambda item: -item[1])[:10]
        total = times.layers_ms or 1.0
        lines += [f"{ms * 1e3:>10.1f}{ms / total:>8.1%}  {name}" for name, ms in shown]
        lines.append("")
    return "\n".join([*lines, f"means of {runs} steps; {word}"])


def _operations(args: argparse.Namespace) -> tuple[list[Operation], tuple[int, int, int] | None]:
    """The operations, and the bundle's limits: sequences, tokens of a call, tokens of a sequence."""
    from tt_edge import strict_json
    from tt_edge.bundle import Bundle
    from tt_edge.errors import BundleError, InvalidInputError
    from tt_edge.roofline import decoder_of_config, decoder_of_network

    if args.config is not None:
        try:
            config = strict_json.loads(args.config.read_bytes(), 10_000)
        except (OSError, ValueError) as error:
            raise InvalidInputError(f"--config {args.config} cannot be read ({error}); give a config.json") from error
        if not isinstance(config, dict):
            raise InvalidInputError(f"--config {args.config} is not an object; give a config.json")
        return decoder_of_config(config, args.format), None
    bundle = Bundle.open(args.bundle, args.require_signature)
    if not bundle.has_network:
        raise BundleError(f"{args.bundle} has engines only; profile the bundle that it was made from")
    contract = bundle.manifest.contract
    limits = contract.max_batch, contract.max_input_len, contract.max_seq_len
    return decoder_of_network(bundle.network(), contract), limits


def _lengths(args: argparse.Namespace, limits: tuple[int, int, int] | None) -> tuple[int, int]:
    from tt_edge.errors import InvalidInputError

    if limits is None:
        isl = PROMPT if args.isl is None else args.isl
        return isl, isl if args.past is None else args.past
    batch, input_len, seq_len = limits
    isl = min(PROMPT, input_len) if args.isl is None else args.isl
    past = min(isl, seq_len - 1) if args.past is None else args.past
    for name, value, most in (("--batch", args.batch, batch), ("--isl", isl, input_len), ("--past", past, seq_len - 1)):
        if value > most:
            raise InvalidInputError(f"{name} is {value}; the bundle has at most {most}")
    return isl, past


def _facts(row: dict[str, Prediction]) -> dict[str, Any]:
    device = row["decode"].device
    facts: dict[str, Any] = {
        "device": device.name,
        "title": device.title,
        "source": device.source,
        "calibration": device.calibration,
        "fitted_on": device.fitted_on,
    }
    for phase, found in row.items():
        facts[phase] = {
            "batch": found.step.batch,
            "new_tokens": found.step.new,
            "past_tokens": found.step.past,
            "ms": found.seconds * 1e3,
            "tokens_per_s": found.tokens_per_s,
            "bytes": found.bytes,
            "flops": found.flops,
            "host_ms": found.host_s * 1e3,
            "ms_by_kind": {kind: seconds * 1e3 for kind, seconds in found.by_kind().items()},
            "layers": [
                {
                    "name": layer.operation.name,
                    "kind": layer.operation.kind,
                    "math": layer.operation.math,
                    "bytes": layer.bytes,
                    "flops": layer.flops,
                    "ms": layer.seconds * 1e3,
                    "bound": layer.bound,
                }
                for layer in found.layers
            ],
        }
    return facts


def render(rows: list[dict[str, Prediction]], refused: dict[str, str], layers: bool) -> str:
    """A line per device; with ``layers`` a table per device and phase."""
    lines = []
    if rows:
        step = rows[0]["decode"].step
        lines += [
            f"batch {step.batch}, prompts of {rows[0]['prefill'].step.new:,} tokens; "
            f"decoding with {step.past:,} tokens in the cache",
            f"{'':<18}{'prefill ms':>11}{'TFLOP':>8}{'decode ms':>11}{'GB':>8}{'tokens/s':>10}  decode time by kind",
        ]
    for row in rows:
        prefill, decode = row["prefill"], row["decode"]
        shares = sorted(decode.by_kind().items(), key=lambda item: -item[1])
        by_kind = ", ".join(f"{kind} {seconds / decode.seconds:.0%}" for kind, seconds in shares[:3])
        lines.append(
            f"{decode.device.name:<18}{prefill.seconds * 1e3:>11.2f}{prefill.flops / 1e12:>8.3f}{decode.seconds * 1e3:>11.3f}"
            f"{decode.bytes / 1e9:>8.3f}{decode.tokens_per_s:>10.1f}  {by_kind}"
        )
    lines += [f"{name:<18}{reason}" for name, reason in refused.items()]
    if layers:
        for row in rows:
            for phase, found in row.items():
                lines += ["", *_layer_table(phase, found)]
    lines.append("predicted from published bandwidths and peaks; not executed")
    return "\n".join(lines)


def _layer_table(phase: str, found: Prediction) -> list[str]:
    lines = [f"{found.device.title}, {phase}", f"{'us':>10}{'MB':>11}{'GFLOP':>10}  {'bound':<8}{'kind':<11}layer"]
    lines += [
        f"{layer.seconds * 1e6:>10.1f}{layer.bytes / 1e6:>11.3f}{layer.flops / 1e9:>10.3f}  "
        f"{layer.bound:<8}{layer.operation.kind:<11}{layer.operation.name}"
        for layer in found.layers
    ]
    return [*lines, f"{found.host_s * 1e6:>10.1f}{'':>21}  {'':<8}host"]
