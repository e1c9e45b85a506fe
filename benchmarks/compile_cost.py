"""The cost of compiling: tt-edge against stock torch_tensorrt, torch.onnx.export + TensorRT's parser, and the floor.

    python benchmarks/compile_cost.py [--size qwen2.5-0.5b] [--routes tt-edge stock …] [--repeat 1] [--check] [--json FILE]
    python benchmarks/compile_cost.py --depths 24 48 80 [--engine]

Every route makes the same model (random fp16 weights) and builds an engine for SM89 ahead of time, each in a separate
process, one after another. The time is that of the whole process: imports, making the model, compiling and, for tt-edge,
writing the bundle. Peak memory is the largest resident set of the process. tt-edge and the floor have the KV cache in the
network; the other two have none.

The network of `floor` is built by hand: it is the minimum that the network API needs for this model.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
SIZES = {
    "tiny": dict(zip(_FIELDS, (128, 256, 2, 4, 2, 512), strict=True)),
    "qwen2.5-0.5b": dict(zip(_FIELDS, (896, 4864, 24, 14, 2, 151936), strict=True)),
    "qwen2.5-1.5b": dict(zip(_FIELDS, (1536, 8960, 28, 12, 2, 151936), strict=True)),
    "qwen2.5-3b": dict(zip(_FIELDS, (2048, 11008, 36, 16, 2, 151936), strict=True)),
}
CAPACITY = 1024
#: What --check holds: a route, another one, and the part of the other one's time that it may take.
BARS = (("tt-edge", "stock", 0.45), ("tt-edge-1", "floor", 1.2))
ROUTES = {
    "tt-edge": "tt-edge, context and generation profiles, KV cache",
    "tt-edge-1": "tt-edge, one profile, KV cache",
    "stock": "torch_tensorrt's own lowering, one profile, no KV cache",
    "onnx": "torch.onnx.export and TensorRT's parser, one profile, no KV cache",
    "floor": "the network API by hand, one profile, KV cache",
    "floor-2": "the network API by hand, two profiles, KV cache",
}


def make_model(size: str):
    """A Qwen2 of the given shape with random fp16 weights, made without a float32 copy."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    config = Qwen2Config(max_position_embeddings=4096, tie_word_embeddings=True, **SIZES[size])
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    model = model.to_empty(device="cpu").half().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    model.tie_weights()
    model.model.rotary_emb = Qwen2RotaryEmbedding(config)  # its buffers are computed, not loaded
    return model


def run_tt_edge(size: str, single_profile: bool) -> dict:
    from tt_edge.compile.pipeline import compile_model
    from tt_edge.config import CompileConfig, EngineTarget

    config = CompileConfig.of(max_input_len=CAPACITY, max_seq_len=CAPACITY, single_profile=single_profile)
    with tempfile.TemporaryDirectory() as folder:
        report = compile_model(lambda: make_model(size), Path(folder) / "out.ttedge", config, EngineTarget(("sm89",)))
    return {
        "layers": report.decoder.engine_layers,
        "engine_mb": report.engines[0].bytes >> 20,
        "stages": report.seconds,
    }


def _wrapped(model):
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids, position_ids):
            return self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits

    return Logits()


def _example():
    import torch

    sequence = torch.export.Dim("sequence", min=1, max=CAPACITY)
    inputs = (torch.randint(0, 500, (1, 16)), torch.arange(16).unsqueeze(0))
    return inputs, ({1: sequence}, {1: sequence})


def _build(builder, network, config, trt) -> int:
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    return builder.build_serialized_network(network, config).nbytes >> 20


def run_stock(size: str) -> dict:
    import torch
    import torch._inductor.fx_passes.reinplace  # as torch_tensorrt imports it; tt-edge leaves it out

    from tt_edge.compile.gpuless import torch_tensorrt_on_this_host

    model = make_model(size)
    with torch_tensorrt_on_this_host() as torch_tensorrt, torch.no_grad():
        import tensorrt as trt
        from torch_tensorrt.dynamo._settings import CompilationSettings
        from torch_tensorrt.dynamo.conversion._TRTInterpreter import TRTInterpreter
        from torch_tensorrt.dynamo.lowering import get_decompositions, post_lowering, pre_export_lowering

        inputs, shapes = _example()
        program = torch.export.export(_wrapped(model), inputs, dynamic_shapes=shapes, strict=False)
        settings = CompilationSettings(immutable_weights=True)
        program = pre_export_lowering(program, settings).run_decompositions(get_decompositions(False, False))
        module = post_lowering(program.module(), settings)
        spec = {"min_shape": (1, 1), "opt_shape": (1, 128), "max_shape": (1, CAPACITY), "dtype": torch.int64}
        interpreter = TRTInterpreter(
            module,
            [torch_tensorrt.Input(**spec) for _ in range(2)],
            output_dtypes=[torch.float16],
            compilation_settings=settings,
        )
        interpreter._construct_trt_network_def()
        network = interpreter.ctx.net
        config = interpreter._populate_trt_builder_config()
        return {"layers": network.num_layers, "engine_mb": _build(interpreter.builder, network, config, trt)}


def run_onnx(size: str) -> dict:
    import tensorrt_rtx as trt
    import torch

    model = make_model(size)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = os.path.join(folder, "model.onnx")
        inputs, shapes = _example()
        torch.onnx.export(
            _wrapped(model), inputs, file, dynamo=True, dynamic_shapes=shapes, external_data=True, verbose=False,
            input_names=["input_ids", "position_ids"], output_names=["logits"],
        )  # fmt: skip
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network()
        if not trt.OnnxParser(network, logger).parse_from_file(file):
            raise SystemExit("TensorRT's ONNX parser refuses the model")
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        for name in ("input_ids", "position_ids"):
            profile.set_shape(name, (1, 1), (1, 128), (1, CAPACITY))
        config.add_optimization_profile(profile)
        return {"layers": network.num_layers, "engine_mb": _build(builder, network, config, trt)}


def run_floor(size: str, profiles: int) -> dict:
    from floor_network import build_floor

    return build_floor(SIZES[size], CAPACITY, profiles)


def depths(size: str, layers: list[int], engine: bool) -> None:
    """Seconds of each stage for several numbers of layers, in one process, and their slope; with ``engine``, the builder's, too.

    The width is that of ``tiny``, because weights are not what is measured; the first compile warms up.
    """
    from tt_edge.compile.pipeline import compile_model
    from tt_edge.config import CompileConfig, EngineTarget

    config = CompileConfig.of(max_input_len=CAPACITY, max_seq_len=CAPACITY, single_profile=True)
    target = EngineTarget(("sm89",)) if engine else EngineTarget()
    names = ("export", "lower", "convert", *(["build"] if engine else []))
    rows = []
    for count in (layers[0], *layers):
        SIZES[size]["num_hidden_layers"] = count
        with tempfile.TemporaryDirectory() as folder:
            report = compile_model(lambda: make_model(size), Path(folder) / "out.ttedge", config, target)
        rows.append((count, *(report.seconds[name] for name in names)))
    print(f"{'layers':<8}" + "".join(f"{name:>9}" for name in names) + f"{'total':>9}")
    for count, *seconds in rows[1:]:
        print(f"{count:<8}" + "".join(f"{value:>9.2f}" for value in (*seconds, sum(seconds))))
    (first, *least), (last, *most) = rows[1], rows[-1]
    slopes = [(b - a) / (last - first) for a, b in zip(least, most, strict=True)]
    print("a layer " + "".join(f"{value:>9.3f}" for value in (*slopes, sum(slopes))))


def child(route: str, size: str) -> None:
    """One route, in this process; prints a line of JSON. All end as `tt-edge` does, without collecting PyTorch's objects."""
    atexit.register(gc.freeze)
    run = {
        "tt-edge": lambda: run_tt_edge(size, False),
        "tt-edge-1": lambda: run_tt_edge(size, True),
        "stock": lambda: run_stock(size),
        "onnx": lambda: run_onnx(size),
        "floor": lambda: run_floor(size, 1),
        "floor-2": lambda: run_floor(size, 2),
    }[route]
    result = run()
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print("RESULT " + json.dumps({**result, "peak_mb": peak >> 10}))


def measure(route: str, size: str) -> dict:
    """One route in a fresh process, timed from outside."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--child", route, "--size", size], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if done.returncode or line is None:
        raise SystemExit(f"{route} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return {"route": route, "seconds": round(seconds, 1), **json.loads(line.removeprefix("RESULT "))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="qwen2.5-0.5b")
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=[r for r in ROUTES if r != "onnx"])
    parser.add_argument("--repeat", type=int, default=1, help="runs of each route, interleaved; the fastest counts")
    parser.add_argument("--depths", nargs="+", type=int, metavar="N", help="stages for these numbers of layers instead")
    parser.add_argument("--engine", action="store_true", help="with --depths, build engines, too")
    parser.add_argument("--check", action="store_true", help="fail where a ratio exceeds its bar")
    parser.add_argument("--json", metavar="FILE", help="also write the results here")
    parser.add_argument("--child", choices=ROUTES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.size)
        return
    if args.depths:
        depths("tiny", args.depths, args.engine)
        return
    runs = [measure(route, args.size) for _ in range(args.repeat) for route in args.routes]
    best = [min((r for r in runs if r["route"] == route), key=lambda r: r["seconds"]) for route in args.routes]
    by_route = {r["route"]: r for r in best}
    stock, floor = by_route.get("stock"), by_route.get("floor")
    print(f"{args.size}, one SM89 engine, whole processes\n")
    ratio_heads = f"{'time/stock':>12}{'peak/stock':>12}{'layers/floor':>14}"
    print(f"{'route':<11}{'seconds':>9}{'peak MB':>9}{'layers':>8}{'engine MB':>11}{ratio_heads}")
    for r in best:
        ratios = [
            f"{r['seconds'] / stock['seconds']:.2f}" if stock else "",
            f"{r['peak_mb'] / stock['peak_mb']:.2f}" if stock else "",
            f"{r['layers'] / floor['layers']:.2f}" if floor else "",
        ]
        print(
            f"{r['route']:<11}{r['seconds']:>9.1f}{r['peak_mb']:>9,}{r['layers']:>8,}{r['engine_mb']:>11,}"
            f"{ratios[0]:>12}{ratios[1]:>12}{ratios[2]:>14}"
        )
    print()
    for route in args.routes:
        print(f"{route:<11}{ROUTES[route]}")
    for r in best:
        if stages := r.get("stages"):
            print(f"{r['route']} stages, seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in stages.items()))
    missed = [bar for bar in BARS if _exceeds(by_route, *bar)] if args.check else []
    for route, other, most in missed:
        print(f"{route} takes more than {most} of {other}'s time")
    if args.json:
        Path(args.json).write_text(json.dumps(runs, indent=2) + "\n")
    if missed:
        raise SystemExit(1)


def _exceeds(by_route: dict, route: str, other: str, most: float) -> bool:
    """Whether ``route`` took more than ``most`` of the time of ``other``, if both ran."""
    return {route, other} <= by_route.keys() and by_route[route]["seconds"] > most * by_route[other]["seconds"]


if __name__ == "__main__":
    main()
