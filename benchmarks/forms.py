"""The cost of each form of a network: layers, and bytes in addition to the weights and one KV cache.

    python benchmarks/forms.py [--check]

Layers are counted in networks with the named models' numbers of layers and heads, but narrow widths, which do not change the
count. Bytes are computed from the shapes of the tensors that a form adds, for fp16, a batch of 8, 8,192 tokens of cache and
prompts of 1,024: no engine is built or executed. `--check` fails if the form of TensorRT 10.16 has more than 1.15 times the
layers of the captured form.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tt_edge.network.ir import Network
from tt_edge.network.legalize.contract import SCORES_LIMIT
from tt_edge.network.legalize.form import Form
from tt_edge.network.legalize.legalize import legalize
from tt_edge.network.legalize.plain_attention import scores_bytes
from tt_edge.tensorrt_features import ATTENTION, ATTENTION_LENGTHS, KV_CACHE_UPDATE, features_of_release

RELEASES = ("11.0", "10.16", "10.14", "10.3")
BATCH, CACHED, PROMPT = 8, 8192, 1024


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes; ``head_dim`` in elements of 2 bytes."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def cache_bytes(self) -> int:
        return 2 * self.layers * BATCH * self.kv_heads * CACHED * self.head_dim * 2


SHAPES = (Shape("Qwen2.5-0.5B", 24, 14, 2, 64), Shape("Llama-3.1-8B", 32, 32, 8, 128))


def captured(shape: Shape) -> Network:
    """A network with the shape's layers and heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from tt_edge.bundle import Bundle
    from tt_edge.compile.pipeline import compile_model
    from tt_edge.config import CompileConfig, EngineTarget

    kinds = {"Qwen2.5-0.5B": (Qwen2Config, Qwen2ForCausalLM), "Llama-3.1-8B": (LlamaConfig, LlamaForCausalLM)}
    configuration, model = kinds[shape.name]
    settings = configuration(
        hidden_size=8 * shape.heads, intermediate_size=64, num_hidden_layers=shape.layers, vocab_size=128,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=8,
    )  # fmt: skip
    config = CompileConfig.of(max_batch=BATCH, max_input_len=64, max_seq_len=128)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.ttedge"
        compile_model(lambda: model(settings).to(torch.float16).eval(), out, config, EngineTarget())
        return Bundle.open(out).network()


@dataclass(frozen=True)
class Cost:
    """The cost of one form: layers, bytes held in addition to the captured form's, and bytes copied per step."""

    form: Form
    layers: int
    mask: int
    second_cache: int
    scores: int
    copied: int
    prompt: int  # tokens of a prompt in one call


def cost(shape: Shape, network: Network, release: str) -> Cost:
    """The cost of the form for ``release`` at the real shape."""
    legal = legalize(network, features_of_release(release))
    replaced, width, scores = legal.form.replaced, PROMPT, 0
    if ATTENTION in replaced:
        each = BATCH * scores_bytes(shape.heads, CACHED)
        width = min(PROMPT, max(16, SCORES_LIMIT // each // 16 * 16))
        scores = each * width
    through = KV_CACHE_UPDATE in replaced
    return Cost(
        legal.form,
        len(legal.network.layers),
        BATCH * width * CACHED if ATTENTION_LENGTHS in replaced else 0,
        shape.cache_bytes if through else 0,
        scores,
        2 * shape.cache_bytes if through else 0,
        width,
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    failed = False
    print(
        "| shape | TensorRT | form | layers | mask MiB | second cache MiB | scores MiB | copied a step MiB | prompt a call |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        network = captured(shape)
        for release in RELEASES:
            c = cost(shape, network, release)
            failed |= release == "10.16" and c.layers > 1.15 * len(network.layers)
            cells = [f"{value / 2**20:,.0f}" for value in (c.mask, c.second_cache, c.scores, c.copied)]
            ratio = c.layers / len(network.layers)
            print(
                f"| {shape.name} | {release} | {c.form} | {c.layers:,} ({ratio:.2f}) | {' | '.join(cells)} | {c.prompt:,} |"
            )
    return int(args.check and failed)


if __name__ == "__main__":
    sys.exit(main())
