"""The process of ``tokenizer_process.py``: reads a tokenizer, then texts and tokens, and answers each. Runs by itself."""

from __future__ import annotations

import json
import resource
import struct
import sys
from typing import Any, BinaryIO


def main() -> None:
    """Messages are a length, little-endian in 8 bytes, and JSON; the first is the tokenizer."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from tokenizers import Tokenizer

    source, target = sys.stdin.buffer, sys.stdout.buffer
    tokenizer: Any = None
    while (message := _receive(source)) is not None:
        try:
            if tokenizer is None:
                tokenizer = Tokenizer.from_buffer(message)
                answer: dict[str, Any] = {"result": None}
            else:
                answer = {"result": _do(tokenizer, json.loads(message))}
        except BaseException as error:  # Rust's panics are no exceptions of Python
            answer = {"error": " ".join(str(error)[:300].split()) or type(error).__name__}
        data = json.dumps(answer).encode()
        target.write(struct.pack("<Q", len(data)) + data)
        target.flush()


def _do(tokenizer: Any, request: dict[str, Any]) -> Any:
    if "encode" in request:
        return tokenizer.encode(request["encode"], add_special_tokens=request["special"]).ids
    return tokenizer.decode(request["decode"], skip_special_tokens=request["skip"])


def _receive(source: BinaryIO) -> bytes | None:
    head = source.read(8)
    return source.read(struct.unpack("<Q", head)[0]) if len(head) == 8 else None


if __name__ == "__main__":
    main()
