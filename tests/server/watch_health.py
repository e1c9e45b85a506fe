"""Run by ``test_load``: polls a server's ``/health`` and, in the same moments, a server that does nothing; prints the seconds.

Argument: the server's port. It ends with SIGTERM.
"""

from __future__ import annotations

import http.client
import http.server
import multiprocessing
import signal
import sys
import time


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


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the child ends, too
    server = http.server.HTTPServer(("127.0.0.1", 0), Idle)
    multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True).start()
    ports = (int(sys.argv[1]), server.server_port)
    while True:
        print(*[seconds(port) for port in ports], flush=True)
        time.sleep(0.02)
