"""The keys that clients of a server must send."""

from __future__ import annotations

import os
from pathlib import Path

from tt_edge.errors import InvalidInputError

#: One key, where there is no file.
KEY_VARIABLE = "TT_EDGE_API_KEY"


def api_keys(file: Path | None) -> tuple[str, ...]:
    """The keys in ``file``, one a line, or that of the environment; none where neither is given.

    Raises ``InvalidInputError`` for a file that holds no key, or a line that is none.
    """
    if file is None:
        key = os.environ.get(KEY_VARIABLE)
        return (key,) if key else ()
    try:
        lines = [line.strip() for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"--api-key-file {file} cannot be read ({error}); give a text file") from None
    keys = dict.fromkeys(line for line in lines if line)
    if not keys:
        raise InvalidInputError(f"--api-key-file {file} does not hold a key; write one a line into it")
    for number, key in enumerate(lines, 1):
        if not key.isascii() or any(c.isspace() for c in key):
            raise InvalidInputError(f"--api-key-file {file}: line {number} is no key; write one without spaces")
    return tuple(keys)
