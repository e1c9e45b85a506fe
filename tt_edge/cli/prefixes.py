"""``--system`` and ``--prefix-cache`` of ``chat`` and ``serve``: a system prompt is computed once, and kept on disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tt_edge.errors import BundleError, InvalidInputError

if TYPE_CHECKING:
    from tt_edge.runtime.llm import LLM


def precompute(llm: LLM, system: str | None, file: Path | None) -> None:
    """Read the prefixes of ``file``, compute that of ``system`` where it is not among them, and write them back.

    A file that cannot be written is reported, and the work goes on without it.
    """
    if file is not None and file.exists():
        llm.load_prefixes(file)
    elif file is not None and system is None:
        raise InvalidInputError(f"--prefix-cache {file} does not exist; add --system TEXT to make it")
    if system is None:
        return
    steps = llm.scheduler.stats.steps
    tokens = llm.precompute([{"role": "system", "content": system}])
    computed = llm.scheduler.stats.steps > steps
    print(f"system prompt: {tokens} tokens, {'computed' if computed else f'read from {file}'}", file=sys.stderr)
    if file is None or not computed:
        return
    try:
        llm.save_prefixes(file)
    except (OSError, BundleError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        print(
            f"tt-edge: --prefix-cache {file} was not written ({reason}); give a file in a folder that can be "
            "written, or it is computed at every start",
            file=sys.stderr,
        )
