"""The process of ``hash_ahead.py``: a line with the SHA-256 of each open file whose descriptor is an argument. Runs by itself."""

from __future__ import annotations

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor

_PIECE = 1 << 20


def sha256(descriptor: int) -> str:
    """Of the content, wherever the descriptor's own position is; releases the GIL."""
    digest, buffer, done = hashlib.sha256(), bytearray(_PIECE), 0
    view = memoryview(buffer)
    while read := os.preadv(descriptor, [buffer], done):
        digest.update(view[:read])
        done += read
    return digest.hexdigest()


if __name__ == "__main__":
    descriptors = [int(argument) for argument in sys.argv[1:]]
    with ThreadPoolExecutor(min(len(descriptors), os.cpu_count() or 1)) as pool:
        for line in pool.map(sha256, descriptors):
            print(line, flush=True)
