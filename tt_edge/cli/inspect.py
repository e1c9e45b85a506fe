"""Show what is in a bundle: the model, its limits, the engine's inputs and outputs, layers, bytes, engines, and how each
claim about it is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from tt_edge.cli.options import add_require_signature
from tt_edge.cli.terminal import safe


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", help="a bundle written by tt-edge compile")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Inspect; reads the network's structure but not its weights."""
    from tt_edge.bundle import Bundle
    from tt_edge.report.facts import collect

    bundle = Bundle.open(args.bundle, args.require_signature)
    facts = collect(bundle)
    if args.json:
        import json

        print(json.dumps(facts, indent=2))
    else:
        print(safe(render(args.bundle, facts), sys.stdout))
    return 0


def render(name: str, facts: dict[str, Any]) -> str:
    """A page of aligned plain text."""
    model, config, kv = facts["model"], facts["config"], facts["kv_cache"]
    limits = config["limits"]
    plain_io = [t for t in (*facts["inputs"], *facts["outputs"]) if not t["name"].startswith(("past_", "present_"))]
    sections: list[tuple[str, Iterable[str]]] = [
        (
            "bundle",
            [
                f"{name} (format {facts['format_version']}, {facts['created_by']}{', signed' if facts['signed'] else ''})"
            ],
        ),
        ("model", [f"{model['architecture']}, {model['parameters'] / 1e6:,.1f} M parameters, from {model['source']}"]),
        (
            "compiled",
            [f"{config['network']['precision']}, {config['attention']['backend']} backend{_quantization(facts)}"],
        ),
        (
            "limits",
            [
                f"batch {limits['max_batch']}, input {limits['max_input_len']:,} tokens, "
                f"sequence {limits['max_seq_len']:,} tokens"
            ],
        ),
        ("engine I/O", [f"{t['name']:<20} {t['dtype']:<9} {_shape(t['shape'])}" for t in plain_io]),
        (
            "KV cache",
            [
                f"{kv['tensors']} tensors, {kv['bytes_per_token']:,} bytes a token, "
                f"{kv['bytes_at_capacity'] / 1e6:,.1f} MB at capacity{', updated in place' if kv['in_place'] else ''}"
            ],
        ),
        *(_network_sections(facts) if facts["layers"] else [("network", ["not in the bundle: it has engines only"])]),
        *_vision_sections(facts["vision"], facts["config"]["vision"]["keep_image_tokens"]),
        *([("platforms", [_verdict(v) for v in facts["platforms"]])] if facts["platforms"] else []),
        (
            "engines",
            [
                f"{_of_part(e)}{e['compute_capability']:<7} {e['flavour']} {e['tensorrt_version']}, {e['platform']}, "
                f"{e['bytes'] / 1e6:,.1f} MB{', version-compatible' if e['version_compatible'] else ''}"
                f"{', without weights' if e['stripped'] else ''}{_built_as(e)}; {_fit(e)}"
                for e in facts["engines"]
            ]
            or ["none"],
        ),
        ("evidence", [f"{e['word']:<13} {e['claim']}: {e['detail']}" for e in facts["evidence"]]),
    ]
    lines = []
    for title, rows in sections:
        for index, row in enumerate(rows):
            lines.append(f"{title if index == 0 else '':<12} {row}".rstrip())
    return "\n".join(lines)


def _built_as(engine: dict[str, Any]) -> str:
    """The form of an engine's network and the limits of its calls, where they differ from the bundle's."""
    from tt_edge.network.legalize.form import Form

    form = Form.parse(engine["form"])
    parts = [str(form)] if form.replaced else []
    for name, what in (("max_input_len", "tokens"), ("max_image_tokens", "image tokens")):
        if engine[name]:
            parts.append(f"up to {engine[name]:,} {what} a call")
    return "".join(f", {part}" for part in parts)


def _verdict(verdict: dict[str, Any]) -> str:
    where = f"{verdict['platform']:<13} {verdict['tensorrt']:<18}"
    if not verdict["builds"]:
        return f"{where} no: {verdict['reason']}"
    without = f"; not on {', '.join(verdict['not_on'])}" if verdict["not_on"] else ""
    return f"{where} {verdict['form']}{without}"


def _network_sections(facts: dict[str, Any]) -> list[tuple[str, Iterable[str]]]:
    decode = facts["decode"]
    bounds = ", ".join(f"{device} {value:,.0f}" for device, value in decode["tokens_per_s_at_most"].items())
    return [
        ("weights", _weights(facts["weights"])),
        ("layers", [_layers(facts["layers"])]),
        (
            "decode step",
            [
                f"{(decode['weight_bytes'] + decode['kv_bytes']) / 1e6:,.1f} MB read, {decode['flops'] / 1e9:,.3f} GFLOP "
                f"(batch 1, {decode['cached_tokens']:,} tokens cached)",
                f"at most, by memory bandwidth alone, in tokens/s: {bounds} (computed, not executed)",
            ],
        ),
    ]


def _vision_sections(vision: dict[str, Any] | None, keep: float) -> list[tuple[str, Iterable[str]]]:
    if vision is None:
        return []
    rows = [f"{vision['min_image_tokens']:,} to {vision['max_image_tokens']:,} image tokens in one call"]
    if keep != 1:
        rows[0] += (
            f", of which {keep:.0%} are kept" if keep < 1 else f", of which {keep:.0f} of each frame or tile are kept"
        )
    for tensor in (*vision["inputs"], *vision["outputs"]):
        shape = _shape(vision["unit"] if dim == "units" else dim for dim in tensor["shape"])
        rows.append(f"{tensor['name']:<20} {tensor['dtype']:<9} {shape}")
    if vision["layers"]:
        rows += [*_weights(vision["weights"]), f"layers {_layers(vision['layers'])}"]
    return [("vision", rows)]


def _weights(weights: dict[str, dict[str, int]]) -> list[str]:
    return [f"{t:<20} {w['elements']:>14,} elements {w['bytes'] / 1e6:>10,.1f} MB" for t, w in weights.items()]


def _layers(layers: dict[str, int]) -> str:
    return f"{sum(layers.values())}: " + ", ".join(f"{kind} {count}" for kind, count in layers.items())


def _quantization(facts: dict[str, Any]) -> str:
    """Which quantization the linear layers have, if any."""
    from tt_edge.config.quantization import QuantConfig

    if facts["model"]["quantization"]:
        return f", the checkpoint's own quantization: {facts['model']['quantization']}"
    recipe = facts["config"]["quantization"]["recipe"]
    return f", linear layers {QuantConfig.from_dict(recipe).name}" if recipe else ""


def _of_part(engine: dict[str, Any]) -> str:
    return "vision " if engine["part"] == "vision" else ""


def _fit(engine: dict[str, Any]) -> str:
    reason = engine["does_not_run_here"]
    return f"not for this machine: {reason}" if reason else "runs here"


def _shape(dims: Iterable[Any]) -> str:
    return "[" + ", ".join(str(d) for d in dims) + "]"
