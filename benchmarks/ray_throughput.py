"""Questions a second of `tt-edge eval --ray` with 1 and 2 workers on this machine, beside a run without Ray.

    python benchmarks/ray_throughput.py BUNDLE QUESTIONS.jsonl [--workers 1 2] [--count N] [--check]

Each row is a cluster that is started for it, with as many CPUs as workers. Seconds are of whole runs. Questions a second leave out
what a run of one question takes: Ray's start, and opening the bundle. The reference session computes, with one thread a worker.
--check fails if the numbers of a row differ from those without Ray in any bit.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time

for _library in ("OMP", "OPENBLAS", "MKL"):  # before NumPy is loaded
    os.environ[f"{_library}_NUM_THREADS"] = "1"

from tt_edge.cli import main as tt_edge  # noqa: E402


def evaluate(*options: str) -> tuple[float, str]:
    """Seconds of a run, and what it printed."""
    begun, out = time.perf_counter(), io.StringIO()
    with contextlib.redirect_stdout(out):
        assert tt_edge(["eval", *options, "--runtime", "reference", "--json"]) == 0
    return time.perf_counter() - begun, out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("bundle")
    parser.add_argument("questions")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    asked = [args.bundle, "--data", args.questions]
    count = ["--count", str(args.count)]
    first, _ = evaluate(*asked, "--count", "1")
    seconds, expected = evaluate(*asked, *count)
    total = json.loads(expected)[0]["network"]["asked"]
    print("| | questions/s beside the start | seconds in all | numbers |\n|---|---|---|---|")
    print(f"| without Ray | {(total - 1) / (seconds - first):.1f} | {seconds:.1f} | |")
    same = True
    for workers in args.workers:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": workers, "object_store_memory": 80 << 20, "include_dashboard": False},
        )
        try:
            first, _ = evaluate(*asked, "--count", "1", "--ray", cluster.address)
            seconds, found = evaluate(*asked, *count, "--ray", cluster.address)
        finally:
            cluster.shutdown()
        same &= found == expected
        equal = "equal" if found == expected else "DIFFERENT"
        print(
            f"| {workers} worker{'s' * (workers > 1)} | {(total - 1) / (seconds - first):.1f} | {seconds:.1f} | {equal} |"
        )
    return 0 if same or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
