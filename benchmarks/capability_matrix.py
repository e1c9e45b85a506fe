"""Build every family for every GPU that TensorRT-RTX builds for ahead of time, and report each result.

    python benchmarks/capability_matrix.py [--families qwen3 …] [--gpus sm75 …] [--quant fp8 …] [--backends native …]
        [--releases 10.3 …] [--json FILE]

Two-layer networks with the head size of each family's checkpoints, as fp16 and bf16, on the native and sdpa backends, and with
each quantization. A cell is `built`, `built: FORM` where the builder refused newer forms, or `refused: REASON`, which a compile
finds in the settings or the model; `FAILED` is anything else. Nothing is executed.

With `--releases`, the networks are in the forms that these releases of TensorRT can build, and in no other.

A network is compiled once and built once, by a build that names all GPUs that have its element types. Only if that build is
refused, each GPU has a build of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle
    from tt_edge.config import CompileConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

GPUS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")

#: Four query heads of the size that checkpoints of the family have; all widths are multiples of an INT4 group.
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 256, "intermediate_size": 512, "head_dim": 128},
    "mistral": {"hidden_size": 256, "intermediate_size": 512, "head_dim": 128},
    "qwen2": {"hidden_size": 256, "intermediate_size": 512},  # 64
    "qwen3": {"hidden_size": 256, "intermediate_size": 512, "head_dim": 128},
    "gemma2": {"hidden_size": 256, "intermediate_size": 512, "head_dim": 256},
    "gemma3": {"hidden_size": 256, "intermediate_size": 512, "head_dim": 256},
    "phi3": {"hidden_size": 384, "intermediate_size": 512, "head_dim": 96},
    "smollm3": {"hidden_size": 512, "intermediate_size": 512, "head_dim": 128},
    "gpt2": {"n_embd": 256},  # 64
    "opt": {"hidden_size": 256, "ffn_dim": 512, "word_embed_proj_dim": 256},  # 64
}

#: By cell, such as ``qwen3 fp8 bf16 native sm89``.
Results = dict[str, str]


def config_of(quant: str, precision: str, backend: str) -> CompileConfig:
    """The configuration of one line of the matrix. ``quant``: a format, or ``none``."""
    from tt_edge.config import CompileConfig, QuantConfig, QuantFormat

    return CompileConfig.of(
        backend=backend,
        precision=precision,
        quant=None if quant == "none" else QuantConfig(QuantFormat(quant)),
        max_input_len=64,
        max_seq_len=256,
        cache="static_v2" if backend == "sdpa" else None,
    )


def compile_small(family: str, config: CompileConfig, out: Path) -> Bundle:
    """A bundle of a model with two layers and ``SHAPES``."""
    import torch

    from tests.models.tiny_models import tiny_model
    from tt_edge.bundle import Bundle
    from tt_edge.compile.pipeline import compile_model
    from tt_edge.config import EngineTarget

    dtype = getattr(torch, config.network.precision.dtype.value)
    make = partial(tiny_model, family, dtype=dtype, **SHAPES[family])
    compile_model(make, out, config, EngineTarget(), batches=[torch.randint(3, 300, (2, 32))])
    return Bundle.open(out)


def build_for(bundle: Bundle, gpus: Sequence[str], release: str = "") -> Results:
    """By GPU: ``built``, ``built: FORM``, or ``FAILED: REASON``. ``release``: whose form the network has; "": as captured."""
    from tt_edge import tensorrt_api
    from tt_edge.errors import EngineError
    from tt_edge.network.build import build_engine, configure
    from tt_edge.network.build_legal import build_legal
    from tt_edge.network.build_options import BuildOptions
    from tt_edge.network.legalize.contract import in_form, limits_in_form
    from tt_edge.network.legalize.legalize import legalize
    from tt_edge.network.rebuild import rebuild
    from tt_edge.tensorrt_features import FEATURES, features_of_release

    rtx, captured, contract = (
        tensorrt_api.load(tensorrt_api.Flavour.RTX),
        bundle.network(),
        bundle.manifest.part("decoder"),
    )
    legal = legalize(captured, features_of_release(release) if release else FEATURES)
    own = in_form(contract, legal.form, limits_in_form(contract, legal.form, captured))
    rebuilt = rebuild(rtx, legal.network)
    config = configure(rtx, rebuilt, own.profiles(), gpus, BuildOptions())
    if rebuilt.builder.build_serialized_network(rebuilt.network, config) is not None:
        return dict.fromkeys(gpus, "built")
    found = {}
    for gpu in gpus:
        try:
            if release:
                build_engine(rtx, legal.network, own.profiles(), gpu, io.BytesIO())
                found[gpu] = "built"
            else:
                made = build_legal(rtx, captured, contract, lambda own: own.profiles(), gpu, io.BytesIO())
                found[gpu] = f"built: {made.form}" if made.refused else "built"
        except EngineError as error:
            found[gpu] = f"FAILED: {error}"
    return found


def results_of(
    family: str, config: CompileConfig, gpus: Sequence[str], releases: Sequence[str] = ("",)
) -> dict[str, Results]:
    """What becomes of one family with one configuration on each GPU, by release (``build_for``); compiled once."""
    from tt_edge.errors import TTEdgeError, UnsupportedModelError
    from tt_edge.network.legalize.serving import lacking_type, types_of_config

    types = types_of_config(config)
    found = {gpu: f"refused: {reason}" for gpu in gpus if (reason := lacking_type(types, gpu))}
    left = [gpu for gpu in gpus if gpu not in found]
    built: dict[str, Results] = {release: {} for release in releases}
    if left:
        with tempfile.TemporaryDirectory() as folder:
            try:
                bundle = compile_small(family, config, Path(folder) / "out.ttedge")
                built = {release: build_for(bundle, left, release) for release in releases}
            except UnsupportedModelError as error:
                found |= dict.fromkeys(left, f"refused: {error}")
            except TTEdgeError as error:
                found |= dict.fromkeys(left, f"FAILED: {error}")
    return {release: {gpu: (found | own)[gpu] for gpu in gpus} for release, own in built.items()}


def table(found: Results) -> list[str]:
    """A Markdown table of the results, with numbered reasons below.

    Families, and backends, that agree on every GPU share a line.
    """
    gpus = sorted({name.split()[-1] for name in found}, key=lambda gpu: int(gpu[2:]))
    families = list(dict.fromkeys(name.split()[0] for name in found))
    reasons: dict[str, int] = {}
    lines: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}  # the last two: families, cells; backends
    for quant, precision, backend in dict.fromkeys(tuple(name.split()[1:4]) for name in found):
        rows: dict[tuple[str, ...], list[str]] = {}
        for family in families:
            results = [found.get(f"{family} {quant} {precision} {backend} {gpu}", "not run") for gpu in gpus]
            rows.setdefault(tuple(_cell(result, reasons) for result in results), []).append(family)
        for row, alike in rows.items():
            lines.setdefault((quant, precision, _who(alike, families), row), []).append(backend)
    head = ["quantization", "precision", "families", "backends", *gpus]
    text = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    text += [
        f"| {' | '.join([quant, precision, who, ', '.join(own), *row])} |"
        for (quant, precision, who, row), own in lines.items()
    ]
    return [*text, "", *(f"{number}. {reason}" for reason, number in reasons.items())]


def _cell(result: str, reasons: dict[str, int]) -> str:
    """``refused (1)`` where the first reason is that of ``result``; new reasons are added."""
    word, _, reason = result.partition(": ")
    if word not in ("refused", "FAILED"):
        return result
    reason = re.split(r", not sm\d+$|; ", reason)[0]
    return f"{word} ({reasons.setdefault(reason, len(reasons) + 1)})"


def _who(alike: list[str], families: list[str]) -> str:
    """``alike`` as ``all``, ``all but …`` or names."""
    others = [family for family in families if family not in alike]
    if not others:
        return "all"
    return f"all but {', '.join(others)}" if len(others) < len(alike) else ", ".join(alike)


def main() -> int:
    """Print a line for each combination, and at the end a table of all."""
    from tests.models.tiny_models import FAMILIES
    from tt_edge.config import QuantFormat

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--gpus", nargs="*", default=list(GPUS))
    parser.add_argument("--quant", nargs="*", default=["none", *QuantFormat])
    parser.add_argument("--backends", nargs="*", default=["native", "sdpa"])
    parser.add_argument(
        "--releases", nargs="*", default=[""], help="releases of TensorRT, such as 10.3; default: networks as captured"
    )
    parser.add_argument("--json", type=Path, help="results so far, which are not built again, and those of this run")
    args = parser.parse_args()
    found: Results = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    for quant, precision, backend, family in product(args.quant, ("fp16", "bf16"), args.backends, args.families):
        lines = {r: f"{family} {quant} {precision} {backend}{f'@{r}' if r else ''}" for r in args.releases}
        if all(f"{line} {gpu}" in found for line in lines.values() for gpu in args.gpus):
            continue
        for release, results in results_of(
            family, config_of(quant, precision, backend), args.gpus, args.releases
        ).items():
            for gpu, result in results.items():
                found[f"{lines[release]} {gpu}"] = result
                print(f"{lines[release]:<36} {gpu:<6} {result}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(found, indent=2) + "\n")
    print(*table(found), sep="\n")
    return int(any(result.startswith("FAILED") for result in found.values()))


if __name__ == "__main__":
    sys.exit(main())
