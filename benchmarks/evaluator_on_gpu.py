"""The reference evaluator on a GPU beside Hugging Face: the network of a whole model in fp16, random weights from a seed.

    python benchmarks/evaluator_on_gpu.py capture --shape Llama-3-8B Qwen2.5-7B -o FOLDER     # needs tt-edge[compile]
    python benchmarks/evaluator_on_gpu.py compare FOLDER                                      # needs a GPU, PyTorch, CuPy

``capture`` compiles each shape without its weights, which are in a sparse file that is never read: the network is a file of a few
MB that can be taken to another machine. ``compare`` makes the weights there, from the same seed for both sides, and prints for a
prompt of 64 tokens and 16 more the relative error of the logits of the evaluator and of PyTorch in fp16, against PyTorch in
fp32; the greedy tokens; and the times.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.lowered_shapes import SHAPES
from tt_edge.contract import IOContract
from tt_edge.network.reference.device import cupy
from tt_edge.network.storage import network_json, parse_network
from tt_edge.runtime.engine.reference_session import ReferenceSession

PROMPT, NEW, CAPACITY = 64, 16, 128
#: Elements of a parameter that is captured with its values.
SMALL = 1 << 18


def empty_model(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model on PyTorch's meta device, except what its configuration determines."""
    config.dtype = dtype
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config)
    return model.eval()


def capture(shape: str, folder: Path) -> None:
    from tt_edge.compile import gpuless  # noqa: F401  (torch_tensorrt is imported without a GPU)
    from tt_edge.compile.export.decoder import DecoderCompiler
    from tt_edge.config import CompileConfig

    model = empty_model(SHAPES[shape](), torch.float16)
    with tempfile.NamedTemporaryFile(dir=folder) as zeros:
        zeros.truncate(2 * sum(p.numel() for p in model.parameters()))
        memory = torch.from_file(
            zeros.name, shared=False, size=Path(zeros.name).stat().st_size // 2, dtype=torch.float16
        )
        place, names = 0, {}
        for name, parameter in list(model.named_parameters()):
            owner, _, last = name.rpartition(".")
            part = memory[place : place + parameter.numel()].view(parameter.shape)
            if parameter.numel() <= SMALL:  # equal constants would be merged
                part.copy_(small_weight(name, tuple(parameter.shape)))
            setattr(model.get_submodule(owner), last, torch.nn.Parameter(part, requires_grad=False))
            place += parameter.numel()
            names[part.data_ptr()] = name
        model.tie_weights()
        config = CompileConfig.of(precision="fp16", max_batch=1, max_input_len=PROMPT, max_seq_len=CAPACITY)
        started = time.perf_counter()
        part = DecoderCompiler(model, config).compile()
        weights = part.network.weights
        at = {key: names.get(value.ctypes.data) for key, value in weights.items() if value.nbytes > 2 * SMALL}
        small = {key: np.array(value) for key, value in weights.items() if at.get(key) is None}
        size = sum(array.nbytes for array in small.values())
        if size > 32 << 20:
            sys.exit(f"{shape}: {size:,} bytes of constants are not parameters of the model; {sorted(small)[:9]}")
        place = folder / shape
        place.mkdir(exist_ok=True)
        (place / "network.json").write_bytes(network_json(part.network))
        (place / "contract.json").write_text(json.dumps(part.contract.to_dict()))
        (place / "parameters.json").write_text(json.dumps({key: name for key, name in at.items() if name is not None}))
        np.savez_compressed(place / "constants.npz", **small)
        print(
            f"{shape}: {len(part.network.layers):,} layers in {time.perf_counter() - started:.0f} s, constants of {size:,} bytes"
        )


def small_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A norm's scale or a bias, the same on every machine."""
    values = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.02, shape) + ("norm" in name)
    return torch.from_numpy(values.astype(np.float16))


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The parameter ``name``, fp16 on the GPU: normal numbers from a seed of its own; the scale of a norm is about 1."""
    if math.prod(shape) <= SMALL:
        return small_weight(name, shape).cuda()
    generator = torch.Generator("cuda").manual_seed(zlib.crc32(name.encode()))
    return (torch.randn(shape, generator=generator, device="cuda") * 0.02).half()


class Weights(Mapping[str, np.ndarray]):
    """A network's weights: constants that were captured, and parameters, which are made anew each time."""

    def __init__(
        self, constants: Mapping[str, np.ndarray], parameters: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._constants, self._parameters, self._shapes = constants, parameters, shapes

    def __getitem__(self, key: str) -> np.ndarray:
        if key in self._constants:
            return self._constants[key]
        name = self._parameters[key]
        return weight(name, self._shapes[name]).cpu().numpy()

    def __iter__(self) -> Iterator[str]:
        return iter((*self._constants, *self._parameters))

    def __len__(self) -> int:
        return len(self._constants) + len(self._parameters)


def pytorch_logits(
    config: PretrainedConfig, ids: list[int]
) -> tuple[list[int], np.ndarray, np.ndarray, dict[str, float]]:
    """Greedy tokens after ``ids`` in fp16, and the logits ``[NEW + 1, V]`` that chose them, in fp16 and in fp32."""
    times = {}
    started = time.perf_counter()
    model = empty_model(config, torch.float16).to_empty(device="cuda")
    model.model.rotary_emb = type(model.model.rotary_emb)(config).cuda()
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weight(name, tuple(parameter.shape)))
    torch.cuda.synchronize()
    times["weights"] = time.perf_counter() - started
    with torch.no_grad():
        sequence, logits = list(ids), []
        started = time.perf_counter()
        for _ in range(NEW + 1):
            row = model(torch.tensor([sequence], device="cuda"), use_cache=False).logits[0, -1]
            logits.append(row.float().cpu().numpy())
            sequence.append(int(row.argmax()))
        times["fp16"] = time.perf_counter() - started
        model.float()
        exact = model(torch.tensor([sequence[:-1]], device="cuda"), use_cache=False).logits[0, len(ids) - 1 :]
    return sequence[len(ids) :], np.array(logits), exact.cpu().numpy(), times


def error(got: np.ndarray, exact: np.ndarray) -> float:
    """The largest relative L2 error of a row."""
    return float((np.linalg.norm(got - exact, axis=-1) / np.linalg.norm(exact, axis=-1)).max())


def compare(folder: Path) -> None:
    arrays = cupy()
    config = SHAPES[folder.name]()
    ids = np.random.default_rng(0).integers(0, config.vocab_size, PROMPT).tolist()
    tokens, half, exact, times = pytorch_logits(config, ids)
    torch.cuda.empty_cache()
    shapes = {name: tuple(p.shape) for name, p in empty_model(config, torch.float16).named_parameters()}
    network = parse_network(json.loads((folder / "network.json").read_bytes()))
    with np.load(folder / "constants.npz") as constants:
        parameters = json.loads((folder / "parameters.json").read_text())
        network.weights = Weights(dict(constants), parameters, shapes)  # type: ignore[assignment]
    contract = IOContract.from_dict(json.loads((folder / "contract.json").read_text()))
    started = time.perf_counter()
    session = ReferenceSession(network, contract, arrays)
    torch.cuda.empty_cache()
    opened = time.perf_counter() - started
    session.reset(1)
    rows, steps = [], []
    for piece in (ids, *([token] for token in tokens[:-1])):
        started = time.perf_counter()
        rows.append(session.forward(np.array([piece]), np.array([len(piece)]))[0].copy())
        steps.append(time.perf_counter() - started)
    got = np.array(rows)
    equal = sum(int(row.argmax()) == token for row, token in zip(got, tokens, strict=True))
    device = torch.cuda.get_device_name()
    pool: Any = arrays.get_default_memory_pool()
    print(f"{folder.name} on {device}, fp16, largest relative error of a row of logits:")
    print(f"  against PyTorch in fp32 {error(got, exact):.2e}; PyTorch's own {error(half, exact):.2e}")
    print(f"  between the two {error(got, half):.2e}; greedy tokens equal {equal} of {len(tokens)}")
    print(f"  PyTorch: weights {times['weights']:.1f} s, tokens {times['fp16']:.1f} s")
    print(
        f"  evaluator: opened in {opened:.1f} s, prompt {steps[0]:.2f} s, a token {np.median(steps[1:]) * 1e3:.0f} ms, "
        f"{pool.total_bytes() / 2**30:.0f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("capture")
    one.add_argument("--shape", nargs="+", choices=SHAPES, default=["Llama-3-8B", "Qwen2.5-7B"])
    one.add_argument("-o", "--output", type=Path, required=True)
    commands.add_parser("compare").add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.command == "capture":
        args.output.mkdir(exist_ok=True)
        for shape in args.shape:
            capture(shape, args.output)
        return
    for folder in sorted(place.parent for place in args.folder.glob("*/network.json")):
        compare(folder)


if __name__ == "__main__":
    main()
