"""How long a stream pauses while another client sends a prompt of a megabyte.

    python benchmarks/stream_pause.py BUNDLE [--prompts 5] [--check]

Starts `tt-edge serve BUNDLE` with the reference session on loopback, reads one streamed completion, and then the same
completion again while --prompts prompts of 1 MiB, far beyond the context, are posted one after the other. The pauses are the
times between streamed chunks. --check fails if the longest pause grows by more than 50 ms, or a prompt is not refused.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from threading import Thread

BAR_SECONDS = 0.05
_MEBIBYTE = "a " * (512 << 10)
_HEADERS = {"Content-Type": "application/json"}


@contextmanager
def server(bundle: str) -> Iterator[int]:
    """The port of a server of ``bundle``."""
    command = [sys.executable, "-m", "tt_edge", "serve", bundle, "--port", "0", "--runtime", "reference"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            seen = ""
            while (found := re.search(r"http://\S+?:(\d+)", seen)) is None:
                if not (line := process.stderr.readline()):
                    raise SystemExit(f"stream_pause.py: the server ended: {seen}")
                seen += line
            yield int(found[1])
        finally:
            process.kill()


def complete(port: int, **request: object) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(request).encode(), _HEADERS)
    return connection.getresponse()


def pauses(port: int, model: str, tokens: int) -> list[float]:
    """Seconds between the chunks of a streamed completion, its first one aside."""
    answer = complete(port, model=model, prompt="The light", max_tokens=tokens, stream=True, ignore_eos=True)
    if answer.status != 200:
        raise SystemExit(f"stream_pause.py: {answer.status} {answer.read().decode()}")
    times = []
    while line := answer.readline():
        if line.startswith(b"data: {"):
            times.append(time.perf_counter())
    return [later - earlier for earlier, later in pairwise(times)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200, help="of the streamed completion")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(argv)
    statuses: list[int] = []

    def post(port: int, model: str) -> None:
        for _ in range(args.prompts):
            time.sleep(0.05)
            statuses.append(complete(port, model=model, prompt=_MEBIBYTE, max_tokens=1).status)

    with server(args.bundle) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/v1/models")
        model = json.load(connection.getresponse())["data"][0]["id"]
        pauses(port, model, args.tokens)  # warm
        alone = pauses(port, model, args.tokens)
        other = Thread(target=post, args=(port, model))
        other.start()
        beside = pauses(port, model, args.tokens)
        other.join()
    for name, found in (("alone", alone), (f"beside {args.prompts} prompts of 1 MiB", beside)):
        print(f"{name}: median {1000 * statistics.median(found):.1f} ms, longest {1000 * max(found):.1f} ms")
    print(f"answers to the prompts: {sorted(set(statuses))}")
    good = max(beside) - max(alone) <= BAR_SECONDS and set(statuses) <= {400, 413}
    if args.check and not good:
        print("the longest pause grew by more than 50 ms, or a prompt was not refused", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
