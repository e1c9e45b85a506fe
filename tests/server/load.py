"""Run by ``test_load``: loads a server with ten times its capacity, hostile bodies among it, and prints what came of it as JSON.

Arguments: the server's port, and seconds.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import io
import json
import sys
import threading
import time
from collections import Counter

import numpy as np
from PIL import Image

from tests.runtime.multimodal.test_processor import gif

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
GOOD = json.dumps({"model": "road", "messages": [{"role": "user", "content": "Hi?"}], "max_tokens": 4}).encode()


def data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def image_chat(*urls: str) -> bytes:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return json.dumps({"model": "road", "messages": [{"role": "user", "content": parts}]}).encode()


def image(width: int, height: int, kind: str, mode: str = "L") -> str:
    file = io.BytesIO()
    pixels = np.zeros((height, width), np.uint16 if mode == "I;16" else np.uint8)
    Image.fromarray(pixels).save(file, kind.upper())
    return data_url(file.getvalue(), kind)


def hostile_bodies() -> list[tuple[str, bytes, dict[str, str]]]:
    """Paths, bodies and headers: each once froze the event loop, took gigabytes, or held a thread for long."""
    head = b'{"model": "road", "prompt": '
    parts = [{"type": "text", "text": "a"}] * 20
    return [
        (TEXT, head + b"[" + b"[1]," * 50_000 + b'[1]], "n": 16}', {}),
        (TEXT, head + b'"' + b"a " * (500 << 10) + b'"}', {}),
        (TEXT, head + b"[" + b"1," * (15 << 20) + b"1]}", {}),
        (TEXT, b"[" * (8 << 20), {}),
        (TEXT, head + b"[" + b"{}," * 80_000 + b"{}]}", {}),
        (TEXT, b'{"model": "road", "prompt": "a", ' + b", ".join(b'"x%d": 1' % i for i in range(80_000)) + b"}", {}),
        (CHAT, json.dumps({"model": "road", "messages": [{"role": "user", "content": "a"}] * 60_000}).encode(), {}),
        (CHAT, json.dumps({"model": "road", "messages": [{"role": "user", "content": parts}] * 2000}).encode(), {}),
        (TEXT, head + b'"' + b"\\u00e9" * (5 << 20) + b'"}', {}),
        (TEXT, gzip.compress(b" " * (256 << 20), 1), {"Content-Encoding": "gzip"}),
        (CHAT, image_chat(*[data_url(gif(8000, 8000), "gif")] * 32), {}),
        (CHAT, image_chat(image(1, 1_000_000, "png")), {}),
        (CHAT, image_chat(image(8000, 8000, "webp")), {}),
        (CHAT, image_chat(image(8000, 8000, "png", "I;16")), {}),
        (CHAT, image_chat(data_url(b"\0" * (22 << 20), "png")), {}),
        (TEXT, head + b"[-1]}", {}),
    ]


def send(port: int, path: str, body: bytes, headers: dict[str, str]) -> int:
    """The status; 0 where the server refused the body while it was being sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (ConnectionError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def load(port: int, seconds: float) -> dict[str, Counter[int]]:
    """The statuses of good and of hostile requests. Each hostile body is sent until it is taken, at least once."""
    bodies, end = hostile_bodies(), time.monotonic() + seconds
    statuses: dict[str, Counter[int]] = {"good": Counter(), "hostile": Counter()}

    def ask(kind: str, requests: list[tuple[str, bytes, dict[str, str]]], pause: float) -> None:
        number = 0
        while time.monotonic() < end or (kind == "hostile" and number < len(requests)):
            status = send(port, *requests[number % len(requests)])
            statuses[kind][status] += 1
            number += status != 429
            time.sleep(pause)

    clients = [threading.Thread(target=ask, args=("good", [(CHAT, GOOD, {})], 0.2)) for _ in range(80)]
    clients += [threading.Thread(target=ask, args=("hostile", bodies[n::4], 0.05)) for n in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return statuses


if __name__ == "__main__":
    print(json.dumps(load(int(sys.argv[1]), float(sys.argv[2]))))
