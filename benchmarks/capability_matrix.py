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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

GPUS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")


def main() -> int:
    """Print a line for each combination."""
    import torch

    from tests.tiny_models import FAMILIES, tiny_model
    from tt_edge import tensorrt_api
    from tt_edge.bundle import Bundle
    from tt_edge.compile.pipeline import compile_model
    from tt_edge.config import CompileConfig, EngineTarget, QuantConfig, QuantFormat
    from tt_edge.errors import TTEdgeError
    from tt_edge.network.build_legal import build_legal
    from tt_edge.network.legalize.serving import lacking_type, types_of

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--gpus", nargs="*", default=list(GPUS))
    parser.add_argument("--quant", nargs="*", default=["none", *QuantFormat])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tensorrt, found = tensorrt_api.load(tensorrt_api.Flavour.RTX), {}
    wide = {"gpt2": {"n_embd": 256}, "opt": {"hidden_size": 256, "word_embed_proj_dim": 256}}
    for family in args.families:
        sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
        for quant in args.quant:
            for precision in ("fp16", "bf16"):
                for backend in ("native", "sdpa"):
                    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
                    recipe = None if quant == "none" else QuantConfig(quant)
                    config = CompileConfig.of(
                        backend=backend, precision=precision, quant=recipe, max_input_len=64, max_seq_len=256,
                        cache="static_v2" if backend == "sdpa" else None,
                    )  # fmt: skip
                    with tempfile.TemporaryDirectory() as folder:
                        out = Path(folder) / "out.ttedge"
                        name = f"{family} {quant} {precision} {backend}"
                        try:
                            compile_model(
                                lambda family=family, dtype=dtype, sizes=sizes: tiny_model(
                                    family, dtype=dtype, **wide.get(family, sizes)
                                ),
                                out, config, EngineTarget(), batches=[torch.randint(3, 300, (2, 32))],
                            )  # fmt: skip
                        except TTEdgeError as error:
                            found[name] = f"refused: {error}"
                            print(f"{name:<36} {found[name]}", flush=True)
                            continue
                        bundle = Bundle.open(out)
                        network, contract = bundle.network(), bundle.manifest.part("decoder")
                        for gpu in args.gpus:
                            reason = lacking_type(types_of([network]), gpu)
                            try:
                                if not reason:
                                    made = build_legal(
                                        tensorrt, network, contract, lambda own: own.profiles(), gpu, io.BytesIO()
                                    )
                                    result = f"built: {made.form}" if made.refused else "built"
                                else:
                                    result = f"refused: {reason}"
                            except TTEdgeError as error:
                                result = f"FAILED: {error}"
                            found[f"{name} {gpu}"] = result
                            print(f"{name:<36} {gpu:<6} {result}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))
    return int(any(result.startswith("FAILED") for result in found.values()))


if __name__ == "__main__":
    sys.exit(main())
