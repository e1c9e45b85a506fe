"""Ten times a server's capacity, hostile bodies among it: good requests are served, and the server answers at once.

The server, its clients and the one who watches ``/health`` are processes of their own, on loopback.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import io
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_serve import serving
from tests.runtime.multimodal.test_processor import gif

pytestmark = pytest.mark.xdist_group("road scenes")

#: Seconds of load; MiB that the server's memory may grow by meanwhile (measured: 190 to 260); and what ``/health`` may take.
SECONDS, MEMORY_MB, HEALTH_S = 12.0, 700, 0.1

#: Polls the server and prints the seconds of each answer.
WATCHER = """
import http.client, sys, time
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
    connection.request("GET", "/health")
    assert connection.getresponse().read() == b'{"status":"ok"}'
    print(time.perf_counter() - start)
    connection.close()
    time.sleep(0.02)
"""


def data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def image_chat(*urls: str) -> bytes:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return json.dumps({"model": "road", "messages": [{"role": "user", "content": parts}]}).encode()


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(file, "PNG")
    return file.getvalue()


def hostile_bodies() -> list[tuple[str, bytes, dict[str, str]]]:
    """Paths, bodies and headers: each once froze the event loop, took gigabytes, or held a thread for long."""
    text, chat = "/v1/completions", "/v1/chat/completions"
    head = b'{"model": "road", "prompt": '
    return [
        (text, head + b"[" + b"[1]," * 50_000 + b'[1]], "n": 16}', {}),
        (text, head + b'"' + b"a " * (500 << 10) + b'"}', {}),
        (text, head + b"[" + b"1," * (15 << 20) + b"1]}", {}),
        (text, b"[" * (8 << 20), {}),
        (text, head + b"[" + b"{}," * 80_000 + b"{}]}", {}),
        (text, b'{"model": "road", "prompt": "a", ' + b", ".join(b'"x%d": 1' % i for i in range(80_000)) + b"}", {}),
        (chat, json.dumps({"model": "road", "messages": [{"role": "user", "content": "a"}] * 60_000}).encode(), {}),
        (text, gzip.compress(b" " * (256 << 20), 1), {"Content-Encoding": "gzip"}),
        (chat, image_chat(*[data_url(gif(8000, 8000), "gif")] * 32), {}),
        (chat, image_chat(data_url(png(1, 1_000_000), "png")), {}),
        (chat, image_chat(data_url(b"\0" * (22 << 20), "png")), {}),
        (text, head + b"[-1]}", {}),
    ]


def send(port: int, path: str, body: bytes, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (ConnectionError, http.client.HTTPException):
        return 0  # refused while the body was being sent
    finally:
        connection.close()


def memory_mb(pid: int, name: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(name))) / 1024


def test_ten_times_its_capacity_with_hostile_bodies(road_bundle):
    with serving(road_bundle, "--max-waiting", "6") as (process, url):  # and two slots
        port = int(url.rsplit(":", 1)[1])
        good = json.dumps({"model": "road", "messages": [{"role": "user", "content": "Hi?"}], "max_tokens": 4}).encode()
        assert send(port, "/v1/chat/completions", good, {}) == 200
        before, end = memory_mb(process.pid, "VmRSS"), time.monotonic() + SECONDS
        statuses: dict[str, Counter[int]] = {"good": Counter(), "hostile": Counter()}

        def ask(kind: str, requests: list[tuple[str, bytes, dict[str, str]]], pause: float) -> None:
            for number in range(100_000):
                if time.monotonic() > end:
                    return
                status = send(port, *requests[number % len(requests)])
                statuses[kind][status] += 1
                time.sleep(pause if status == 200 else 0.2)

        bodies = hostile_bodies()
        clients = [
            threading.Thread(target=ask, args=("good", [("/v1/chat/completions", good, {})], 0.1)) for _ in range(80)
        ]
        clients += [threading.Thread(target=ask, args=("hostile", bodies[n:] + bodies[:n], 0.0)) for n in range(4)]
        watcher = subprocess.Popen(
            [sys.executable, "-c", WATCHER, str(port), str(SECONDS)], stdout=subprocess.PIPE, text=True
        )
        for client in clients:
            client.start()
        seconds = sorted(float(line) for line in watcher.stdout)
        for client in clients:
            client.join()
        assert watcher.wait() == 0
        grown = memory_mb(process.pid, "VmHWM") - before
        late = seconds[int(len(seconds) * 0.9)]
        print(
            f"health: median {seconds[len(seconds) // 2]:.3f}, 90 % {late:.3f}, worst {seconds[-1]:.3f} s of {len(seconds)}"
        )
        print(f"memory: {grown:.0f} MiB more than before; {statuses}")
        assert send(port, "/v1/chat/completions", good, {}) == 200
        assert process.poll() is None
    assert set(statuses["good"]) <= {200, 429}
    assert statuses["good"][200] >= 20
    assert set(statuses["hostile"]) <= {0, 400, 413, 429}
    assert sum(statuses["hostile"].values()) >= len(bodies)
    assert late <= HEALTH_S
    assert grown <= MEMORY_MB
