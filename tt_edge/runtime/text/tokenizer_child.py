"""What the process of ``tokenizer_process.py`` does: encode and decode. Imports nothing of tt-edge."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any


def make(first: bytes) -> Callable[[bytes], bytes]:
    """What answers requests, which are JSON; ``first`` is the text of a ``tokenizer.json``."""
    os.environ["TOKENIZERS_PARALLELISM"], os.environ["RUST_BACKTRACE"] = "false", "0"
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(first)
    except BaseException as error:  # Rust's panics are no exceptions of Python
        unreadable = json.dumps({"unreadable": _line(error)}).encode()
        return lambda _: unreadable
    return lambda message: json.dumps(_answer(tokenizer, json.loads(message))).encode()


def _answer(tokenizer: Any, request: dict[str, Any]) -> dict[str, Any]:
    try:
        if "encode" in request:
            return {"result": tokenizer.encode(request["encode"], add_special_tokens=request["special"]).ids}
        return {"result": tokenizer.decode(request["decode"], skip_special_tokens=request["skip"])}
    except BaseException as error:
        return {"error": _line(error)}


def _line(error: BaseException) -> str:
    return " ".join(str(error)[:300].split()) or type(error).__name__
