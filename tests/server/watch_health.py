"""Run by ``test_load``: polls a server's ``/health`` and, in the same moments, a server that does nothing.

Arguments: the server's port and process. It ends with SIGTERM. Each line has three figures in seconds: how long ``/health``
took, for how much of this the thread of the server's event loop was ready and had no core, and how long the other server took.
"""

from __future__ import annotations

import http.client
import http.server
import multiprocessing
import signal
import sys
import time
from pathlib import Path


class Idle(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "15")
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')

    def log_message(self, *_: object) -> None:
        pass


def seconds(port: int) -> float:
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/health")
    assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.close()
    return time.perf_counter() - start


def without_a_core(process: int) -> float:
    """Seconds so far that the first thread of ``process`` was ready to run and did not; 0 where Linux does not count them."""
    file = Path(f"/proc/{process}/task/{process}/schedstat")
    return int(file.read_text().split()[1]) / 1e9 if file.exists() else 0.0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the child ends, too
    server = http.server.HTTPServer(("127.0.0.1", 0), Idle)
    multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True).start()
    port, process = map(int, sys.argv[1:])
    while True:
        before = without_a_core(process)
        took = seconds(port)
        print(took, min(without_a_core(process) - before, took), seconds(server.server_port), flush=True)
        time.sleep(0.02)
