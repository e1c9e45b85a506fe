"""Text of models and files on a terminal: what would control the terminal is shown, not obeyed."""

from __future__ import annotations

from typing import TextIO

#: C0 controls but tab and newline, DEL and C1 controls, as U+2400's pictures of them or as U+FFFD. ESC begins a sequence that
#: moves the cursor, sets the title or makes the terminal type; U+009B is the same in one character.
_CONTROLS = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
    | {0x7F: 0x2421}
    | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
)


def safe(text: str, stream: TextIO) -> str:
    """``text`` as it may be written to ``stream``: as it is, or on a terminal without control characters."""
    return text.translate(_CONTROLS) if stream.isatty() else text
