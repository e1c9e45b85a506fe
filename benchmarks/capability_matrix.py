"""Build every family for every GPU that TensorRT-RTX builds for ahead of time, and report each result.

    python benchmarks/capability_matrix.py [--families qwen3 …] [--gpus sm75 …] [--quant fp8 …] [--json FILE]

Tiny networks with heads of 64 elements, as fp16 and bf16, on the native and sdpa backends, and with each quantization. A cell is
`built`, `built: FORM` where the builder refused newer forms, or `refused: REASON`. Nothing is executed.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle

sys.path.insert(0, str(Path(__file__).parents[1]))

GPUS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")


#: Sizes of families that call them differently.
WIDE: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 256},
    "opt": {"hidden_size": 256, "ffn_dim": 512, "word_embed_proj_dim": 256},
}
SIZES = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


def compile_tiny(family: str, quant: str, precision: str, backend: str, out: Path) -> Bundle:
    """A bundle of a tiny model with heads of 64 elements. ``quant``: a format, or ``none``."""
    import torch

    from tests.tiny_models import tiny_model
    from tt_edge.bundle import Bundle
    from tt_edge.compile.pipeline import compile_model
    from tt_edge.config import CompileConfig, EngineTarget, QuantConfig, QuantFormat

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    config = CompileConfig.of(
        backend=backend,
        precision=precision,
        quant=None if quant == "none" else QuantConfig(QuantFormat(quant)),
        max_input_len=64,
        max_seq_len=256,
        cache="static_v2" if backend == "sdpa" else None,
    )
    compile_model(
        lambda: tiny_model(family, dtype=dtype, **WIDE.get(family, SIZES)),
        out,
        config,
        EngineTarget(),
        batches=[torch.randint(3, 300, (2, 32))],
    )
    return Bundle.open(out)


def build_for(bundle: Bundle, gpu: str) -> str:
    """``built``, ``built: FORM`` or ``refused: REASON``. Raises ``EngineError`` where the builder refuses every form."""
    from tt_edge import tensorrt_api
    from tt_edge.network.build_legal import build_legal
    from tt_edge.network.legalize.serving import lacking_type, types_of

    network = bundle.network()
    if reason := lacking_type(types_of([network]), gpu):
        return f"refused: {reason}"
    rtx, contract = tensorrt_api.load(tensorrt_api.Flavour.RTX), bundle.manifest.part("decoder")
    made = build_legal(rtx, network, contract, lambda own: own.profiles(), gpu, io.BytesIO())
    return f"built: {made.form}" if made.refused else "built"


def table(found: dict[str, str]) -> list[str]:
    """A Markdown table of the results: a line for each quantization, precision and backend, a column for each GPU.

    A cell has the number of families with each result; the reasons of refusals are in the JSON.
    """
    cells: dict[tuple[str, ...], dict[str, Counter[str]]] = {}
    for name, result in found.items():
        _, *row, gpu = name.split()
        word = result if result.startswith("built") else result.split(":")[0]
        cells.setdefault(tuple(row), {}).setdefault(gpu, Counter())[word] += 1
    gpus = sorted({gpu for row in cells.values() for gpu in row}, key=lambda gpu: int(gpu[2:]))
    lines = ["| quantization | precision | backend | " + " | ".join(gpus) + " |", "|---" * (3 + len(gpus)) + "|"]
    for names, row in cells.items():
        results = (", ".join(f"{word} {count}" for word, count in row.get(gpu, Counter()).items()) for gpu in gpus)
        lines.append(f"| {' | '.join(names)} | {' | '.join(results)} |")
    return lines


def main() -> int:
    """Print a line for each combination, and at the end a table of all."""
    from tests.tiny_models import FAMILIES
    from tt_edge.config import QuantFormat
    from tt_edge.errors import TTEdgeError

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--gpus", nargs="*", default=list(GPUS))
    parser.add_argument("--quant", nargs="*", default=["none", *QuantFormat])
    parser.add_argument("--json", type=Path, help="results so far, which are not built again, and those of this run")
    args = parser.parse_args()
    found: dict[str, str] = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    for family, quant, precision, backend in product(args.families, args.quant, ("fp16", "bf16"), ("native", "sdpa")):
        name = f"{family} {quant} {precision} {backend}"
        left = [gpu for gpu in args.gpus if f"{name} {gpu}" not in found]
        if not left:
            continue
        with tempfile.TemporaryDirectory() as folder:
            bundle, refused = None, ""
            try:
                bundle = compile_tiny(family, quant, precision, backend, Path(folder) / "out.ttedge")
            except TTEdgeError as error:
                refused = f"refused: {error}"
            for gpu in left:
                try:
                    result = build_for(bundle, gpu) if bundle is not None else refused
                except TTEdgeError as error:
                    result = f"FAILED: {error}"
                found[f"{name} {gpu}"] = result
                print(f"{name:<36} {gpu:<6} {result}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(found, indent=2) + "\n")
    print(*table(found), sep="\n")
    return int(any(result.startswith("FAILED") for result in found.values()))


if __name__ == "__main__":
    sys.exit(main())
