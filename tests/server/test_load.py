"""Ten times a server's capacity, hostile bodies among it: good requests are served, and the server answers at once.

The server, its clients and the one who watches ``/health`` are processes of their own, on loopback.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_serve import serving
from tests.server.load import CHAT, GOOD, hostile_bodies, send

pytestmark = pytest.mark.xdist_group("road scenes")

#: Seconds of load.
SECONDS = 12.0

#: MiB that the server's memory may grow by, and that each of its two child processes may take (measured: 161 and 1,634).
MEMORY_MB, CHILD_MB = 700, 2500

#: Seconds that ``/health`` may take: half of the time in all, and 99 of 100 times without the time for which the thread that
#: answers was ready and other processes, clients first of all, had the cores, and beyond what a server that does nothing takes.
HEALTH_S = 0.1

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def memory_mb(pid: int, name: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(name))) / 1024


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def at(values: list[float], part: float) -> float:
    """The value that so many of the ``values`` do not exceed."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]


def test_ten_times_its_capacity_with_hostile_bodies(road_bundle):
    with serving(road_bundle, "--max-waiting", "6") as (process, url):  # and two slots
        port = int(url.rsplit(":", 1)[1])
        assert send(port, CHAT, GOOD, {}) == 200
        before = memory_mb(process.pid, "VmRSS")
        watch = [sys.executable, HERE / "watch_health.py", str(port), str(process.pid)]
        watcher = subprocess.Popen(watch, stdout=subprocess.PIPE, text=True)
        load = [sys.executable, "-m", "tests.server.load", str(port), str(SECONDS)]
        statuses = json.loads(subprocess.run(load, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        assert watcher.poll() is None, "every answer was right"
        watcher.terminate()
        grown = memory_mb(process.pid, "VmHWM") - before
        peaks = [memory_mb(child, "VmHWM") for child in children(process.pid)]
        lines = [line.split() for line in watcher.communicate()[0].splitlines()[:-1]]
        health, waited, idle = ([float(value) for value in column] for column in zip(*lines, strict=True))
        own = [took - wait for took, wait in zip(health, waited, strict=True)]
        for name, values in {"/health": health, "without waiting for a core": own, "idle server": idle}.items():
            shown = "  ".join(f"{at(values, part):.3f}" for part in (0.5, 0.9, 0.99, 1))
            print(f"{name:28} s, median, 90 %, 99 %, worst of {len(values)}: {shown}")
        print(f"memory: {grown:.0f} MiB more than before, children {[round(peak) for peak in peaks]}; {statuses}")
        assert send(port, CHAT, GOOD, {}) == 200
        assert process.poll() is None
    assert set(statuses["good"]) <= {"200", "429"}
    assert statuses["good"]["200"] >= 20
    assert set(statuses["hostile"]) <= {"0", "200", "400", "413", "429"}
    assert sum(statuses["hostile"].values()) - statuses["hostile"].get("429", 0) >= len(hostile_bodies())
    assert at(health, 0.5) <= HEALTH_S
    assert at(own, 0.99) <= HEALTH_S + at(idle, 0.99)
    assert grown <= MEMORY_MB
    assert max(peaks) <= CHILD_MB
