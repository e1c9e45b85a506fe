"""The time that a fresh process needs before it can load an engine, and its memory at that point.

    python benchmarks/cold_start.py [--repeat 3] [--weights-mib 1024] [--check]

Each row is the fastest of several fresh processes: importing the runtime, importing torch_tensorrt (if it is installed)
on the same machine, opening a bundle with --weights-mib MiB of weights (every SHA-256 checked, the weights memory-mapped),
and the first token of a signed bundle whose engine has that size and whose tokenizer has 151,643 tokens, from the start of the
process. For that row, the engine is checked and mapped, and a tiny network evaluated in NumPy stands in for it: the
row has everything but importing TensorRT, the engine's own load and its prefill. --check fails if importing the runtime exceeds
its limits, 0.25 s and 80 MB, or the first token takes more than 1.5 s.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

BAR_SECONDS, BAR_MB = 0.25, 80
FIRST_TOKEN_SECONDS = 1.5
VOCABULARY = 151_643

_MEASURE = """
import json, sys, time
start = time.perf_counter()
{code}
# The kernel knows when the process began, in ticks of 10 ms since it was booted.
began = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19]) / 100
seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - began if {whole} else time.perf_counter() - start
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
anonymous, files = (int(status[key].split()[0]) / 1000 for key in ("RssAnon", "RssFile"))
print(json.dumps([seconds, anonymous, files]))
"""
# Where there is no GPU, torch_tensorrt cannot be imported without this.
_TORCH_TENSORRT = "from tt_edge.compile.gpuless import torch_tensorrt_on_this_host as t\nwith t(): pass"
_BUNDLE = (
    "import tt_edge.runtime\nfrom tt_edge.bundle import Bundle\nb = Bundle.open(sys.argv[1])\nb.verify()\nb.network()"
)
_FIRST_TOKEN = """
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime import LLM
from tt_edge.runtime.engine import choose, open_engine
from tt_edge.runtime.engine.reference_session import ReferenceSession
def stand_in(bundle, engine, flavour, has_steps):
    bundle.file(engine.file).map()
    return ReferenceSession(bundle.network(), bundle.manifest.part(engine.part))
open_engine.open_engine = stand_in
choose.Machine.runtime_for = lambda machine, engine: "tensorrt_rtx"
choose.Machine.misfit = lambda machine, engine: None
with LLM.load(sys.argv[1], require_signature=sys.argv[2]) as llm:
    llm.generate(["!"], GenerationConfig(max_new_tokens=1))
"""


def measure(code: str, repeat: int, *arguments: str, whole: bool = False) -> tuple[float, float, float]:
    """Seconds, MB of private memory, and MB of mapped files: the fastest of ``repeat`` processes.

    The seconds are those of ``code`` or, for the ``whole`` process, those since its start.
    """
    runs = []
    for _ in range(repeat):
        program = [sys.executable, "-c", _MEASURE.format(code=code, whole=whole), *arguments]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"cold_start.py: {code!r} failed:\n{done.stderr}")
        runs.append(tuple(json.loads(done.stdout.splitlines()[-1])))
    return min(runs)


def write_bundle(path: Path, mib: int) -> None:
    """A bundle of a tiny network with a constant of random bytes."""
    from tests.bundle.making import CONFIG, IDENTITY
    from tests.models.decoders import compiled
    from tt_edge.bundle import BundleWriter
    from tt_edge.bundle.manifest import DECODER, part_file
    from tt_edge.dtypes import DType
    from tt_edge.network.ir import Layer, Tensor
    from tt_edge.network.storage import write_network

    network, contract = compiled()
    network.weights["big"] = np.frombuffer(np.random.default_rng(0).bytes(mib << 20), np.uint8)
    shape = network.weights["big"].shape
    network.tensors["big"] = Tensor("big", DType.UINT8, shape)
    network.layers.append(Layer("big", "CONSTANT", [], ["big"], {"weights": "big", "shape": list(shape)}))
    with BundleWriter(path) as writer:
        write_network(network, lambda name: writer.open(part_file(DECODER, name)))
        writer.commit(IDENTITY, CONFIG, {DECODER: contract})


def write_signed_bundle(path: Path, mib: int) -> Path:
    """A signed bundle with an engine of random bytes and a tokenizer as large as Qwen2.5's; the public key to check it with."""
    from tests.bundle.making import CONFIG, ENGINE, IDENTITY
    from tests.models.decoders import compiled
    from tt_edge.bundle import BundleWriter, EngineRecord
    from tt_edge.bundle.keys import new_key
    from tt_edge.bundle.manifest import DECODER, part_file
    from tt_edge.bundle.signing import sign
    from tt_edge.network.storage import write_network

    network, contract = compiled()
    with BundleWriter(path) as writer:
        write_network(network, lambda name: writer.open(part_file(DECODER, name)))
        writer.write_bytes("tokenizer.json", tokenizer())
        writer.write_bytes(ENGINE, np.random.default_rng(0).bytes(mib << 20))
        writer.add_engine(EngineRecord(ENGINE, "tensorrt_rtx", "1.6.1.1", "linux_x86_64", "sm89", mib << 20, 1.5))
        writer.commit(IDENTITY, CONFIG, {DECODER: contract})
    private, public = new_key(str(path.parent / "key"))
    sign(path, private)
    return public


def tokenizer() -> bytes:
    """A ``tokenizer.json`` of a byte-level BPE with random merges, as transformers writes it."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    rng, pool, merges = random.Random(0), list(letters), []
    tokens = dict.fromkeys(letters)
    while len(tokens) < VOCABULARY:
        first, second = rng.choice(pool), rng.choice(letters)
        if first + second not in tokens:
            tokens[first + second] = None
            merges.append([first, second])
            pool.append(first + second)
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    model = {"type": "BPE", "vocab": {token: index for index, token in enumerate(tokens)}, "merges": merges}
    parts = {"normalizer": {"type": "NFC"}, "pre_tokenizer": bytes_of, "decoder": bytes_of, "post_processor": None}
    return json.dumps({"version": "1.0", "added_tokens": [], **parts, "model": model}).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--weights-mib", type=int, default=1024)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    rows = {"import tt_edge.runtime": measure("import tt_edge.runtime", args.repeat)}
    if importlib.util.find_spec("torch_tensorrt"):
        rows["import torch_tensorrt"] = measure(_TORCH_TENSORRT, args.repeat)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "big.ttedge"
        write_bundle(bundle, args.weights_mib)
        rows[f"open and check {args.weights_mib:,} MiB"] = measure(_BUNDLE, args.repeat, str(bundle))
        signed = Path(folder) / "signed.ttedge"
        key = write_signed_bundle(signed, args.weights_mib)
        rows["first token"] = measure(_FIRST_TOKEN, args.repeat, str(signed), str(key), whole=True)
    print(f"{'':28} {'seconds':>8} {'own MB':>8} {'mapped MB':>10}")
    for name, (seconds, anonymous, files) in rows.items():
        print(f"{name:28} {seconds:8.2f} {anonymous:8.0f} {files:10.0f}")
    seconds, anonymous, files = rows["import tt_edge.runtime"]
    if args.check and (seconds > BAR_SECONDS or anonymous + files > BAR_MB):
        raise SystemExit(f"cold_start.py: the bars are {BAR_SECONDS} s and {BAR_MB} MB")
    if args.check and rows["first token"][0] > FIRST_TOKEN_SECONDS:
        raise SystemExit(f"cold_start.py: the bar of the first token is {FIRST_TOKEN_SECONDS} s")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
