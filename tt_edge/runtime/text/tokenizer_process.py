"""A tokenizer in a process of its own, with limits on time and memory, for those that are not known to be harmless."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tt_edge.errors import BundleError, InvalidInputError

#: Seconds that the process may take for one text, and bytes that it may use.
MAX_SECONDS, MAX_BYTES = 5.0, 2 << 30

_CHILD = Path(__file__).with_name("tokenizer_child.py")


class TokenizerProcess:
    """Encodes and decodes by ``tokenizer``, the text of a ``tokenizer.json``. Thread-safe: one text after the other.

    A process that exceeds a limit is killed, and the next text gets a new one. ``close`` ends it.
    """

    def __init__(self, tokenizer: str) -> None:
        self._tokenizer = tokenizer
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._ask({"encode": text, "special": add_special_tokens}, f"a text of {len(text)} characters")
        return ids

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        text: str = self._ask({"decode": ids, "skip": skip_special_tokens}, f"{len(ids)} tokens")
        return text

    def close(self) -> None:
        """End the process. Closing twice is harmless."""
        with self._turn:
            self._kill()

    def _ask(self, request: dict[str, Any], what: str) -> Any:
        with self._turn:
            try:
                if self._process is None or self._process.poll() is not None:
                    self._start()
                answer = self._exchange(json.dumps(request))
            except (OSError, EOFError, TimeoutError):
                self._kill()
                raise InvalidInputError(
                    f"the bundle's tokenizer takes more than {MAX_SECONDS:g} s or {MAX_BYTES >> 30} GiB for {what}; "
                    "shorten the text, or compile a checkpoint whose tokenizer.json you trust"
                ) from None
        if "error" in answer:
            raise BundleError(f"tokenizer.json cannot take {what} ({answer['error']}); compile the model again")
        return answer["result"]

    def _start(self) -> None:
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
        self._kill()
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_CHILD), str(MAX_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        answer = self._exchange(self._tokenizer)
        if "error" in answer:
            self._kill()
            raise BundleError(f"tokenizer.json cannot be read ({answer['error']}); compile the model again")

    def _exchange(self, message: str) -> dict[str, Any]:
        """Send ``message`` and wait for the answer, as long as it may take."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        data = message.encode()
        timer = threading.Timer(
            MAX_SECONDS + len(data) / 1e7, self._process.kill
        )  # reading the file takes a while, too
        timer.start()
        try:
            self._process.stdin.write(struct.pack("<Q", len(data)) + data)
            self._process.stdin.flush()
            (length,) = struct.unpack("<Q", _read(self._process.stdout, 8))
            answer: dict[str, Any] = json.loads(_read(self._process.stdout, length))
            return answer
        finally:
            timer.cancel()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:  # what was buffered for a dead process
                        continue
            self._process = None

    def __del__(self) -> None:
        self._kill()


def _read(pipe: Any, length: int) -> bytes:
    data: bytes = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data
