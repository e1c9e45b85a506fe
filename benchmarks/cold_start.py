"""The time that a fresh process needs before it can load an engine, and its memory at that point.

    python benchmarks/cold_start.py [--repeat 3] [--weights-mib 1024] [--check]

Each row is the fastest of several fresh processes: importing the runtime, importing torch_tensorrt (if it is installed)
on the same machine, and opening a bundle with --weights-mib MiB of weights: every SHA-256 checked, the weights
memory-mapped. --check fails if importing the runtime exceeds its limits, 0.25 s and 80 MB.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

BAR_SECONDS, BAR_MB = 0.25, 80

_MEASURE = """
import json, sys, time
start = time.perf_counter()
{code}
seconds = time.perf_counter() - start
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
anonymous, files = (int(status[key].split()[0]) / 1000 for key in ("RssAnon", "RssFile"))
print(json.dumps([seconds, anonymous, files]))
"""
# Where there is no GPU, torch_tensorrt cannot be imported without this.
_TORCH_TENSORRT = "from tt_edge.compile.gpuless import torch_tensorrt_on_this_host as t\nwith t(): pass"
_BUNDLE = (
    "import tt_edge.runtime\nfrom tt_edge.bundle import Bundle\nb = Bundle.open(sys.argv[1])\nb.verify()\nb.network()"
)


def measure(code: str, repeat: int, *arguments: str) -> tuple[float, float, float]:
    """Seconds, MB of private memory, and MB of mapped files: the fastest of ``repeat`` processes."""
    runs = []
    for _ in range(repeat):
        program = [sys.executable, "-c", _MEASURE.format(code=code), *arguments]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"cold_start.py: {code!r} failed:\n{done.stderr}")
        runs.append(tuple(json.loads(done.stdout.splitlines()[-1])))
    return min(runs)


def write_bundle(path: Path, mib: int) -> None:
    """A bundle whose network is one constant of random bytes."""
    from tests.bundle.making import CONFIG, IDENTITY
    from tests.decoders import compiled
    from tt_edge.bundle import BundleWriter
    from tt_edge.dtypes import DType
    from tt_edge.network.ir import Layer, Network, Tensor
    from tt_edge.network.storage import write_network

    weights = {"w": np.random.default_rng(0).integers(0, 255, mib << 20, np.uint8)}
    layer = Layer("constant", "CONSTANT", [], ["w"], {"weights": "w"})
    network = Network("big", [], ["w"], {"w": Tensor("w", DType.UINT8, weights["w"].shape)}, [layer], weights)
    with BundleWriter(path) as writer:
        write_network(network, writer.open)
        writer.commit(IDENTITY, CONFIG, compiled()[1])


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
    print(f"{'':28} {'seconds':>8} {'own MB':>8} {'mapped MB':>10}")
    for name, (seconds, anonymous, files) in rows.items():
        print(f"{name:28} {seconds:8.2f} {anonymous:8.0f} {files:10.0f}")
    seconds, anonymous, files = rows["import tt_edge.runtime"]
    if args.check and (seconds > BAR_SECONDS or anonymous + files > BAR_MB):
        raise SystemExit(f"cold_start.py: the bars are {BAR_SECONDS} s and {BAR_MB} MB")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
