"""Your own module around Edge-LLM's AttentionPlugin: PyTorch math and a TensorRT network with equal results.

    python examples/attention_plugin_example.py [--contract 0.4|0.9.1|0.10]

The operator `tt_edge::attention_plugin` computes RoPE, KV cache and causal attention, on CPU and GPU. So the module below
runs directly in PyTorch. Exported and converted, its network holds the plugin as a layer with its fields, which standard
TensorRT creates if the plugin library is installed. Here the network is evaluated in NumPy and compared.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn

from tt_edge.compile.convert import convert_graph, converters
from tt_edge.config import CompileConfig
from tt_edge.contract import ShapeRange, TensorSpec
from tt_edge.dtypes import DType
from tt_edge.lowering.base import LoweringContext
from tt_edge.lowering.cleanup.canonicalize_graph import CanonicalizeGraph
from tt_edge.lowering.cleanup.decompose_unsupported import DecomposeUnsupported
from tt_edge.lowering.cleanup.fuse_shuffles import FuseShuffles
from tt_edge.lowering.pipeline import lower
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.plugins.edgellm.contracts import GENERATIONS, PAGE_TOKENS

HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, CAPACITY, BATCH = 256, 4, 2, 64, 128, 2


class InsertAttentionPlugin(nn.Module):
    """One attention block: projections in PyTorch, everything between them in the plugin."""

    def __init__(self, contract: str) -> None:
        super().__init__()
        self.contract = contract
        self.qkv = nn.Linear(HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD_SIZE)
        self.out = nn.Linear(HEADS * HEAD_SIZE, HIDDEN, bias=False)
        angles = torch.arange(CAPACITY)[:, None] / 10000 ** (torch.arange(0, HEAD_SIZE, 2) / HEAD_SIZE)
        self.register_buffer("rope", torch.cat([angles.cos(), angles.sin()], -1)[None])

    def forward(self, hidden: Tensor, cache: Tensor, lengths: Tensor, starts: Tensor, pages: Tensor | None = None):
        """`hidden` [B, S, H] to the same shape, and the cache; `lengths` and `starts` int32 [B]; a page table for 0.10."""
        qkv = self.qkv(hidden)
        widths = [HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE]
        activations = [qkv] if GENERATIONS[self.contract].packed else list(qkv.split(widths, dim=-1))
        inputs = [*activations, cache, lengths, self.rope, starts, *([] if pages is None else [pages])]
        attention, cache = torch.ops.tt_edge.attention_plugin(
            inputs, self.contract, HEADS, KV_HEADS, HEAD_SIZE, HEAD_SIZE**-0.5
        )
        return self.out(attention.flatten(2)), cache


def inputs(contract: str, tokens: int, past: int) -> list[Tensor]:
    """A step of `tokens` tokens after `past`, with an empty cache."""
    hidden = torch.randn(BATCH, tokens, HIDDEN)
    counts = torch.full((BATCH,), tokens if past == 0 else past + tokens, dtype=torch.int32)
    starts = torch.full((BATCH,), past, dtype=torch.int32)
    if not GENERATIONS[contract].paged:
        return [hidden, torch.zeros(BATCH, 2, KV_HEADS, CAPACITY, HEAD_SIZE), counts, starts]
    pages = BATCH * CAPACITY // PAGE_TOKENS  # one page per slot
    table = torch.stack([torch.arange(BATCH), torch.arange(BATCH) + pages], dim=1)[..., None].int()
    return [hidden, torch.zeros(2, pages, PAGE_TOKENS, KV_HEADS, HEAD_SIZE), counts, starts, table]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    versions = [version for version, contract in GENERATIONS.items() if not contract.ragged]
    parser.add_argument("--contract", default="0.9.1", choices=versions, help="generation of the plugin")
    contract = parser.parse_args().contract
    torch.manual_seed(0)
    module = InsertAttentionPlugin(contract).eval()

    prompt = inputs(contract, tokens=7, past=0)
    names = ["hidden", "past", "lengths", "starts", "kv_page_table"][: len(prompt)]
    with torch.no_grad():
        sequence = {1: torch.export.Dim("sequence", max=CAPACITY)}
        shapes = (sequence, *({} for _ in prompt[1:]))
        program = torch.export.export(module, tuple(prompt), dynamic_shapes=shapes, strict=False)
    graph = program.module(check_guards=False)
    graph = torch.fx.GraphModule(graph, graph.graph)
    config = CompileConfig.of(backend="plugin", max_batch=BATCH, max_input_len=CAPACITY, max_seq_len=CAPACITY)
    context = LoweringContext(config, decoder_layers=1, converters=converters())
    print(lower(graph, [CanonicalizeGraph(), FuseShuffles(), DecomposeUnsupported()], context).render())

    specs = []
    for name, tensor in zip(names, prompt, strict=True):
        sizes = [
            tuple(n if i == 1 and name == "hidden" else d for i, d in enumerate(tensor.shape)) for n in (1, 7, CAPACITY)
        ]
        dims = ("batch", "sequence", HIDDEN) if name == "hidden" else tuple(tensor.shape)
        dtype = DType(str(tensor.dtype).removeprefix("torch."))
        specs.append((TensorSpec(name, dtype, dims), ShapeRange(*sizes)))
    network = convert_graph(graph, specs, ["out", "present"], "attention")
    [plugin] = [layer for layer in network.layers if layer.kind.startswith("PLUGIN")]
    print(f"\n{len(network.layers)} layers, one of them {plugin.kind}: {plugin.attributes}\n")

    evaluator = ReferenceEvaluator(network)
    for title, step in (("prefill, 7 tokens", prompt), ("decode, 1 token", inputs(contract, tokens=1, past=7))):
        with torch.no_grad():
            want, want_cache = module(*step)
        feeds = {name: tensor.numpy().copy() for name, tensor in zip(names, step, strict=True)}
        got = evaluator.run(feeds)
        error = max(np.abs(got["out"] - want.numpy()).max(), np.abs(got["present"] - want_cache.numpy()).max())
        print(f"{title}: PyTorch and the evaluated network differ by {error:.1e} at most")
        if error > 1e-4:
            raise SystemExit("that is too much")
    print("The plugin itself was not executed: that takes standard TensorRT and its library.")


if __name__ == "__main__":
    main()
