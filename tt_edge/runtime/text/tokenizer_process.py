"""A tokenizer in a process of its own, with limits on time and memory, for those that are not known to be harmless."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.child_process import ChildProcess

#: Seconds that the process may take for one text, and bytes that it may use.
MAX_SECONDS, MAX_BYTES = 5.0, 2 << 30

_CHILD = Path(__file__).with_name("tokenizer_child.py")


class TokenizerProcess:
    """Encodes and decodes by ``tokenizer``, the text of a ``tokenizer.json``. Thread-safe: one text after the other.

    A process that exceeds a limit is killed, and the next text gets a new one. ``close`` ends it.
    """

    def __init__(self, tokenizer: str) -> None:
        self._child = ChildProcess(_CHILD, MAX_BYTES, tokenizer.encode())

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._ask({"encode": text, "special": add_special_tokens}, f"a text of {len(text)} characters")
        return ids

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        text: str = self._ask({"decode": ids, "skip": skip_special_tokens}, f"{len(ids)} tokens")
        return text

    def close(self) -> None:
        """End the process. Closing twice is harmless."""
        self._child.close()

    def _ask(self, request: dict[str, Any], what: str) -> Any:
        message = json.dumps(request).encode()
        try:
            answer = json.loads(self._child.ask(message, MAX_SECONDS + len(message) / 1e7))
        except EOFError:
            raise InvalidInputError(
                f"the bundle's tokenizer takes more than {MAX_SECONDS:g} s or {MAX_BYTES >> 30} GiB for {what}; "
                "shorten the text, or compile a checkpoint whose tokenizer.json you trust"
            ) from None
        if "unreadable" in answer:
            raise BundleError(f"tokenizer.json cannot be read ({answer['unreadable']}); compile the model again")
        if "error" in answer:
            raise BundleError(f"tokenizer.json cannot take {what} ({answer['error']}); compile the model again")
        return answer["result"]
