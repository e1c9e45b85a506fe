"""The process of ``child_process.py``: runs ``make`` of a script, and answers messages by what it returns. Runs by itself.

A message is a length, little-endian in 8 bytes, and that many bytes.
"""

from __future__ import annotations

import os
import resource
import runpy
import signal
import struct
import sys
from typing import BinaryIO


def main() -> None:
    """Arguments: the script, and the bytes of address space that the process may use."""
    script, limit = sys.argv[1], int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent closes the pipe
    os.nice(15)  # behind the parent, which answers others meanwhile
    # What a library prints must not be taken for an answer.
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    make, answer = runpy.run_path(script)["make"], None
    while (message := _receive(source)) is not None:
        if answer is None:
            answer, reply = make(message), b""
        else:
            reply = answer(message)
        target.write(struct.pack("<Q", len(reply)))
        target.write(reply)
        target.flush()


def _receive(source: BinaryIO) -> bytes | None:
    head = source.read(8)
    return source.read(struct.unpack("<Q", head)[0]) if len(head) == 8 else None


if __name__ == "__main__":
    main()
