"""The memory of compiling a checkpoint of 7.6 B parameters without an engine.

    python benchmarks/compile_memory.py [--layers 28] [--check]

A checkpoint of Qwen2.5-7B's shape, in fp16, is written to a temporary folder (15.2 GB: a block of random numbers from a seed,
repeated), and compiled by `tt-edge compile --engine none` into another 15.2 GB. The number is the peak of RssAnon, sampled
every 20 ms: memory of the process's own. Mapped files are not in it: the system can drop their pages. --check
fails if it exceeds 4 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BAR_GB = 4.0
HIDDEN, INNER, VOCABULARY, HEADS, KV_HEADS = 3584, 18944, 152064, 28, 4
_LAYERS_PER_FILE = 4


def write_checkpoint(folder: Path, layers: int) -> int:
    """Write configuration, index and weights, one file after the other; returns the weights' bytes."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "dtype": "float16",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    ends = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    files: list[dict[str, tuple[int, ...]]] = [{**ends, "model.norm.weight": (HIDDEN,)}]
    for first in range(0, layers, _LAYERS_PER_FILE):
        chosen = range(first, min(first + _LAYERS_PER_FILE, layers))
        files.append({name: shape for layer in chosen for name, shape in _layer(f"model.layers.{layer}.").items()})
    block = (np.random.default_rng(0).standard_normal(8 << 20, np.float32) * 0.02).astype(np.float16).tobytes()
    places, total = {}, 0
    for number, shapes in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        places.update(dict.fromkeys(shapes, name))
        total += _write_weights(folder / name, shapes, block)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _layer(prefix: str) -> dict[str, tuple[int, ...]]:
    kv = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {f"self_attn.{x}_proj.weight": (kv, HIDDEN) for x in "kv"}
    shapes |= {f"self_attn.{x}_proj.bias": (kv,) for x in "kv"} | {"self_attn.q_proj.bias": (HIDDEN,)}
    shapes |= {f"self_attn.{x}_proj.weight": (HIDDEN, HIDDEN) for x in "qo"}
    shapes |= {f"mlp.{x}_proj.weight": (INNER, HIDDEN) for x in ("gate", "up")}
    shapes |= {"mlp.down_proj.weight": (HIDDEN, INNER)}
    shapes |= {f"{x}_layernorm.weight": (HIDDEN,) for x in ("input", "post_attention")}
    return {prefix + name: shape for name, shape in shapes.items()}


def _write_weights(file: Path, shapes: dict[str, tuple[int, ...]], block: bytes) -> int:
    header, size = {}, 0
    for name, shape in shapes.items():
        end = size + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [size, end]}
        size = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as out:
        out.write(len(encoded).to_bytes(8, "little") + encoded)
        for done in range(0, size, len(block)):
            out.write(block[: size - done])
    return size


def peak_of(command: list[str]) -> tuple[int, float]:
    """The peak of RssAnon in bytes, and seconds. Raises ``SystemExit`` if the command fails."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        found = dict(line.split(":", 1) for line in status.read_text().splitlines())
        peak = max(peak, int(found.get("RssAnon", "0 kB").split()[0]) * 1024)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"compile_memory.py: {' '.join(command)} failed")
    return peak, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--check", action="store_true", help=f"fail above {BAR_GB:g} GB")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tt-edge-") as scratch:
        checkpoint, out = Path(scratch) / "checkpoint", Path(scratch) / "out.ttedge"
        checkpoint.mkdir()
        size = write_checkpoint(checkpoint, args.layers)
        os.sync()
        command = [sys.executable, "-m", "tt_edge", "compile", str(checkpoint), "-o", str(out), "--max-seq-len", "1024"]
        peak, seconds = peak_of(command)
    print(f"weights {size / 1e9:.2f} GB; peak of the process's own memory {peak / 1e9:.2f} GB; {seconds:.0f} s")
    return int(args.check and peak > BAR_GB * 1e9)


if __name__ == "__main__":
    sys.exit(main())
