"""A script in a process of its own, with limits on time and memory: for work that a hostile input may make arbitrarily slow."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

_MAIN = Path(__file__).with_name("child_main.py")


class ChildProcess:
    """Answers messages by ``script``, whose ``make`` gets ``first`` and returns a function from a message to its answer.

    Messages and answers are bytes. The process is started by the first message, may use ``max_bytes`` of address space, and is
    killed when it exceeds a limit; the next message then starts a new one. Thread-safe: one message after the other.
    """

    def __init__(self, script: Path, max_bytes: int, first: bytes) -> None:
        self._script, self._max_bytes, self._first = script, max_bytes, first
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        process = self._process
        return None if process is None else process.pid

    def ask(self, message: bytes, seconds: float) -> bytes | bytearray:
        """The answer to ``message``. Raises ``EOFError`` when it took more than ``seconds`` or the process ended."""
        with self._turn:
            try:
                if self._process is None or self._process.poll() is not None:
                    self._start(seconds)
                return self._exchange(message, seconds)
            except (OSError, EOFError, struct.error) as error:
                self._kill()
                raise EOFError("the process ended") from error

    def close(self) -> None:
        """End the process, also while it works. A later message starts a new one."""
        process = self._process
        if process is not None:
            process.kill()
        with self._turn:
            self._kill()

    def _start(self, seconds: float) -> None:
        self._kill()
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_MAIN), str(self._script), str(self._max_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._exchange(self._first, max(seconds, 10.0))  # an interpreter starts slowly on a busy machine

    def _exchange(self, message: bytes, seconds: float) -> bytes | bytearray:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            _write(self._process.stdin, struct.pack("<Q", len(message)))
            _write(self._process.stdin, message)
            (length,) = struct.unpack("<Q", _read(self._process.stdout, 8))
            return _read(self._process.stdout, length)
        finally:
            timer.cancel()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def __del__(self) -> None:
        self._kill()


def _write(pipe: IO[bytes], data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[pipe.write(left) :]


def _read(pipe: IO[bytes], length: int) -> bytearray:
    """Into memory that is there: no other thread waits for a copy."""
    data = bytearray(length)
    left = memoryview(data)
    while left:
        count = pipe.readinto(left)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        left = left[count:]
    return data
