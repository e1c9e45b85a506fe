"""The peak memory of quantizing a model of Qwen2.5-0.5B's shape, stage by stage.

    python benchmarks/quantize_memory.py [--formats int4_wo fp8 …] [--check]

A checkpoint of random fp16 weights is written to a temporary folder; a separate process then compiles it, without an engine.
Each number is the peak memory of the process in a stage (VmHWM, which includes libraries and the mapped checkpoint), as a
multiple of the checkpoint's size. `libraries` is the memory before the model is loaded, with PyTorch, modelopt and
torch_tensorrt imported. --check fails if loading or quantizing exceeds 2.5 times the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tt_edge.config.quantization import QuantFormat

BAR = 2.5
STAGES = ("libraries", "load", "quantize", "export", "convert", "write")


def write_checkpoint(folder: Path) -> None:
    from benchmarks.compile_cost import make_model

    make_model("qwen2.5-0.5b").save_pretrained(folder)


def peak() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def child(format: str, folder: Path) -> None:
    """Compile with ``format``; prints bytes by stage as JSON."""
    import modelopt.torch.quantization  # noqa: F401
    import torch

    from tt_edge.compile import convert, pipeline  # noqa: F401
    from tt_edge.compile.checkpoint.load import load_model
    from tt_edge.compile.gpuless import torch_tensorrt_on_this_host
    from tt_edge.compile.stages import Stages
    from tt_edge.config import CompileConfig, EngineTarget, Precision
    from tt_edge.config.quantization import QuantConfig

    with torch_tensorrt_on_this_host():
        pass
    found = {"libraries": peak()}
    stage = Stages.stage

    @contextmanager
    def measured(self: Stages, name: str) -> Iterator[None]:
        forget_peak()
        with stage(self, name):
            yield
        found[name] = max(peak(), found.get(name, 0))

    Stages.stage = measured  # type: ignore[method-assign]
    ids = torch.randint(0, 1000, (8, 128), generator=torch.Generator().manual_seed(0))

    def load():  # type: ignore[no-untyped-def]
        forget_peak()
        model = load_model(folder, Precision.FP16)
        found["load"] = peak()
        return model

    config = CompileConfig.of(max_input_len=512, max_seq_len=1024, quant=QuantConfig(format))  # type: ignore[arg-type]
    pipeline.compile_model(
        load, folder.parent / f"{format}.ttedge", config, EngineTarget(), batches=[ids], overwrite=True
    )
    print("RESULT " + json.dumps(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", nargs="*", default=["int4_wo", "int4_awq", "fp8"], choices=list(QuantFormat))
    parser.add_argument("--check", action="store_true", help="fail where loading or quantizing exceeds the bar")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.folder)
        return 0
    failed = False
    with tempfile.TemporaryDirectory(prefix="tt-edge-") as scratch:
        folder = Path(scratch) / "model"
        script = f"from benchmarks.quantize_memory import *; write_checkpoint(Path({str(folder)!r}))"
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        print(f"checkpoint: {size / 1e6:,.0f} MB in fp16; peaks as multiples of it")
        print(f"{'format':<10}" + "".join(f"{name:>11}" for name in STAGES))
        for format in args.formats:
            command = [sys.executable, __file__, "--child", format, "--folder", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
            if line is None:
                raise SystemExit(f"quantize_memory.py: {format} failed:\n{done.stderr}")
            found = {name: nbytes / size for name, nbytes in json.loads(line.removeprefix("RESULT ")).items()}
            print(f"{format:<10}" + "".join(f"{found.get(name, 0):>11.2f}" for name in STAGES), flush=True)
            failed |= max(found["load"], found["quantize"]) > BAR
    return int(args.check and failed)


if __name__ == "__main__":
    sys.exit(main())
