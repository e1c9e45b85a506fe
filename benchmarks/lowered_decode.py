"""The lowered graph of the plugin backend on a GPU, beside Hugging Face's generate() with a static cache: the same model, the
same GPU, random weights from a seed.

    tt-edge plugin build && python benchmarks/lowered_decode.py --shape Qwen2.5-0.5B Llama-3.2-1B

Two graphs are replayed in a CUDA graph with their caches updated in place, each as it is and through torch.compile. "As converted"
is the one that `tt-edge compile --backend plugin --plugin-contract tt-edge` converts to TensorRT layers. "Joined" is the same after
two passes that stand for what TensorRT's builder fuses; it has the kernel `tt_row_product`, which no engine has. TensorRT is not
involved. The floor of a step is the time to read every weight and the cache once, at the bandwidth of a large copy.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.lowered_shapes import SHAPES, model_of
from tt_edge.compile.export.decoder import DecoderCompiler
from tt_edge.compile.in_place import run_in_place
from tt_edge.compile.quantize.layers import quantize_model
from tt_edge.compile.quantize.quantized_linear import QuantizedLinear
from tt_edge.config import CompileConfig
from tt_edge.config.quantization import QuantConfig
from tt_edge.errors import TTEdgeError
from tt_edge.lowering.base import LoweringContext
from tt_edge.lowering.pipeline import lower
from tt_edge.plugins.cuda.library import load_kernels
from tt_edge.plugins.ops.quantization import dequantize_weight

PROMPT, NEW, CAPACITY = 64, 128, 256


def lowered(model: PreTrainedModel, quant: QuantConfig | None) -> dict[str, GraphModule]:
    """What the plugin backend converts, with its caches in place, and the same with its products joined. They share weights."""
    config = CompileConfig.of(
        backend="plugin",
        plugin_contract="tt-edge",
        max_batch=1,
        max_input_len=CAPACITY,
        max_seq_len=CAPACITY,
        **({"quant": quant} if quant else {}),
    )
    compiler = DecoderCompiler(model, config)
    module = compiler.export()
    lower(module, compiler.passes(), LoweringContext(config, compiler.decoder_layers))
    converted = GraphModule(module, copy.deepcopy(module.graph))
    return {"as converted": run_in_place(converted, join=False), "joined": run_in_place(module)}


@dataclass
class Inputs:
    """What a step of batch 1 reads, at addresses that stay."""

    ids: Tensor
    positions: Tensor
    last: Tensor
    past: Tensor
    new: Tensor
    caches: list[Tensor]

    @classmethod
    def of(cls, module: GraphModule, tokens: Tensor) -> Inputs:
        device, width = tokens.device, tokens.shape[1]
        caches = [
            torch.zeros(1, *node.meta["val"].shape[1:], dtype=node.meta["val"].dtype, device=device)
            for node in module.graph.find_nodes(op="placeholder")
            if str(node.target).startswith("past_key_values")
        ]
        return cls(
            tokens,
            torch.arange(width, device=device)[None],
            torch.tensor([width - 1], device=device),
            torch.zeros(1, dtype=torch.int32, device=device),
            torch.tensor([width], dtype=torch.int32, device=device),
            caches,
        )

    def then(self, token: Tensor) -> Inputs:
        """The step after these tokens."""
        width = self.ids.shape[1]
        return Inputs(
            token,
            self.positions[:, -1:] + 1,
            torch.zeros_like(self.last),
            self.past + width,
            torch.ones_like(self.new),
            self.caches,
        )


class Step(nn.Module):
    """One decode step, which leaves everything as the next one needs it: the chosen token, positions, lengths."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, ids: Tensor, positions: Tensor, last: Tensor, past: Tensor, new: Tensor, caches: list[Tensor]
    ) -> Tensor:
        """Logits ``[1, V]``."""
        logits: Tensor = self.module(ids, positions, last, past, new, *caches)
        ids.copy_(_highest(logits))
        positions.add_(1)
        past.add_(1)
        return logits


def _highest(logits: Tensor) -> Tensor:
    """The index of the highest of ``[1, V]``: over parts first, because one reduction of so many is slow."""
    parts = logits.view(128, -1)
    values, places = parts.max(-1)
    part = values.argmax()
    return part * parts.shape[1] + places.gather(0, part.view(1))


class Replayed:
    """A step in a CUDA graph."""

    def __init__(self, step: Callable[..., Tensor], inputs: Inputs) -> None:
        self.inputs = inputs
        self._start = [inputs.ids.clone(), inputs.positions.clone(), inputs.past.clone()]
        arguments = (inputs.ids, inputs.positions, inputs.last, inputs.past, inputs.new, inputs.caches)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                step(*arguments)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            self.logits = step(*arguments)
        self.rewind()

    def rewind(self) -> None:
        """Back to the end of the prompt."""
        for tensor, start in zip((self.inputs.ids, self.inputs.positions, self.inputs.past), self._start, strict=True):
            tensor.copy_(start)

    def free(self) -> list[int]:
        """Tokens after the first, chosen greedily."""
        self.rewind()
        tokens = []
        for _ in range(NEW - 1):
            self.graph.replay()
            tokens.append(self.inputs.ids.clone())
        return [int(t) for t in tokens]

    def forced(self, tokens: Tensor) -> Tensor:
        """Logits ``[NEW - 1, V]`` after each of the tokens ``[NEW - 1]``."""
        self.rewind()
        rows = []
        for token in tokens:
            self.inputs.ids.fill_(token)
            self.graph.replay()
            rows.append(self.logits[0].clone())
        return torch.stack(rows)

    def seconds(self) -> float:
        """Time of a step: the median over runs of the whole answer."""
        times = []
        for _ in range(5):
            self.rewind()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(NEW - 1):
                self.graph.replay()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) / (NEW - 1))
        return statistics.median(times)


def huggingface(model: PreTrainedModel, prompt: Tensor, runs: int, **settings: Any) -> tuple[Tensor, float]:
    """Greedy tokens of generate() with a static cache, and seconds a token after the first."""

    def run(new: int) -> tuple[Tensor, float]:
        torch.cuda.synchronize()
        start = time.perf_counter()
        tokens = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            cache_implementation="static",
            pad_token_id=0,
            **settings,
        )
        torch.cuda.synchronize()
        return tokens[0, prompt.shape[1] :], time.perf_counter() - start

    run(NEW)
    tokens, _ = run(NEW)
    whole = statistics.median(run(NEW)[1] for _ in range(runs))
    first = statistics.median(run(2)[1] for _ in range(runs))
    return tokens, (whole - first) / (NEW - 2)


def copy_bandwidth() -> float:
    """Bytes a second of a large copy, read and written."""
    a = torch.randn(1 << 28, device="cuda")
    b = torch.empty_like(a)
    times = []
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        b.copy_(a)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return 2 * a.nbytes / statistics.median(times)


def bytes_of_a_step(model: PreTrainedModel, module: GraphModule, inputs: Inputs) -> int:
    """Every weight that a step reads, once, and the cache at the middle of the answer."""
    tensors = {
        tensor.untyped_storage().data_ptr(): tensor.nbytes
        for node in module.graph.find_nodes(op="get_attr")
        if isinstance(tensor := _attribute(module, str(node.target)), Tensor)
    }
    if not model.config.tie_word_embeddings:  # one row of the table of embeddings
        tensors.pop(model.get_input_embeddings().weight.untyped_storage().data_ptr(), None)
    cached = sum(cache.nbytes for cache in inputs.caches) * (PROMPT + NEW // 2) // CAPACITY
    return sum(tensors.values()) + cached


def _attribute(module: nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


@dataclass(frozen=True)
class Agreement:
    """Each step's token beside PyTorch's, both after PyTorch's tokens, and errors of logits against fp32."""

    equal: int
    ties: int
    wrong: int
    error: float
    pytorch_error: float

    @classmethod
    def of(cls, ours: Tensor, theirs: Tensor, exact: Tensor) -> Agreement:
        equal = ours.argmax(-1) == theirs.argmax(-1)
        noise = (theirs - exact).abs().amax(-1)
        chosen = exact.gather(1, ours.argmax(-1, keepdim=True))[:, 0]
        tie = ~equal & (exact.amax(-1) - chosen <= 2 * noise)
        error, own = (float((x - exact).norm() / exact.norm()) for x in (ours, theirs))
        return cls(int(equal.sum()), int(tie.sum()), int((~equal & ~tie).sum()), error, own)

    @property
    def holds(self) -> bool:
        return self.wrong == 0 and self.error <= 2 * self.pytorch_error


def quantized_and_plain(model: PreTrainedModel, quant: QuantConfig) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The model with INT4 layers, and the same numbers as plain fp16 linears for PyTorch."""
    quantize_model(model, quant, {})
    plain = copy.deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, QuantizedLinear):
            linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, dtype=torch.float16)
            linear.weight.data = dequantize_weight(layer.values, layer.scale, None, "int4").half()
            if layer.bias is not None:
                linear.bias.data = layer.bias
            parent, _, last = name.rpartition(".")
            setattr(plain.get_submodule(parent), last, linear)
    return model, plain


def rows(shape: str, quant: str | None, bandwidth: float, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measurements of one model."""
    model = plain = model_of(shape, "cuda")
    recipe = QuantConfig(quant) if quant else None
    if recipe:
        model, plain = quantized_and_plain(model, recipe)
    modules = {name: graph.cuda() for name, graph in lowered(model, recipe).items()}
    module = modules["as converted"]
    plain = plain.cuda()
    prompt = torch.randint(0, plain.config.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(1)).cuda()
    case = f"{shape} {quant or 'fp16'}"

    tokens, seconds = huggingface(plain, prompt, args.runs, disable_compile=True)
    yield {"case": case, "what": "generate(), static cache", "seconds": seconds}
    if args.compiled:
        compiled, fast = huggingface(plain, prompt, args.runs)
        yield {"case": case, "what": "generate(), static cache, compiled", "seconds": fast}
        del compiled
        torch._dynamo.reset()

    inputs = Inputs.of(module, prompt)
    with torch.no_grad():
        first = module(inputs.ids, inputs.positions, inputs.last, inputs.past, inputs.new, *inputs.caches)
    floor = bytes_of_a_step(model, module, inputs) / bandwidth
    yield {"case": case, "what": "floor", "seconds": floor}
    sequence = torch.cat([prompt, tokens[None]], 1)
    with torch.no_grad():
        theirs = plain(sequence[:, :-1]).logits[0, PROMPT:].float()
        exact_model = copy.deepcopy(plain).float()  # the lowered graph shares the weights of `plain`
        exact = exact_model(sequence[:, :-1]).logits[0, PROMPT:]
    del exact_model
    forms: dict[str, Callable[..., Tensor]] = {}
    options = {"coordinate_descent_tuning": True, "combo_kernels": args.combo}
    for name, graph in modules.items():
        step = Step(graph)
        forms[f"lowered graph {name}"] = step
        forms[f"lowered graph {name}, torch.compile"] = torch.compile(
            step, options=options, fullgraph=True, dynamic=False
        )
    for what, form in forms.items():
        start = time.perf_counter()
        with torch.no_grad():
            replayed = Replayed(form, inputs.then(first.argmax(-1).view(1, 1)))
        prepared = time.perf_counter() - start
        agreement = Agreement.of(replayed.forced(tokens[:-1]), theirs, exact)
        same = [int(first.argmax(-1)), *replayed.free()] == tokens.tolist()
        yield {
            "case": case,
            "what": what,
            "seconds": replayed.seconds(),
            "equal": agreement.equal,
            "ties": agreement.ties,
            "wrong": agreement.wrong,
            "error": agreement.error,
            "PyTorch's error": agreement.pytorch_error,
            "holds": agreement.holds,
            "the whole answer is equal": same,
            "prepared in s": round(prepared, 1),
        }
        if args.trace:
            _kernels(replayed)


def _kernels(replayed: Replayed) -> None:
    """Times by kernel of one step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        replayed.graph.replay()
        torch.cuda.synchronize()
    print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=14, max_name_column_width=70), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="*", default=["Qwen2.5-0.5B", "Llama-3.2-1B"], help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--quant", nargs="*", default=["none"], help="none, int4_wo")
    parser.add_argument("--compiled", action="store_true", help="also generate() as transformers compiles it")
    parser.add_argument("--combo", action="store_true", help="let torch.compile join small kernels")
    parser.add_argument("--trace", action="store_true", help="times by kernel")
    parser.add_argument("--runs", type=int, default=3, help="runs of generate()")
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this needs an NVIDIA GPU and its driver, and there is none here")
    try:
        load_kernels()
    except TTEdgeError as error:
        parser.error(str(error))
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}: copy {bandwidth / 1e9:.0f} GB/s", flush=True)
    found: list[dict[str, Any]] = []
    for shape in args.shape:
        for quant in args.quant:
            floor = baseline = 0.0
            for row in rows(shape, None if quant == "none" else quant, bandwidth, args):
                floor = row["seconds"] if row["what"] == "floor" else floor
                baseline = baseline or row["seconds"]
                row["tokens/s"] = round(1 / row["seconds"], 1)
                row["of generate()"], row["of the floor"] = baseline / row["seconds"], floor / row["seconds"]
                found.append(row)
                print(
                    " | ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()),
                    flush=True,
                )
            torch._dynamo.reset()
            torch.cuda.empty_cache()
    if args.json:
        args.json.write_text(
            json.dumps({"gpu": torch.cuda.get_device_name(), "copy": bandwidth, "rows": found}, indent=1)
        )


if __name__ == "__main__":
    main()
