"""The image processor of an encoder-decoder that reads pages, checked when it is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tt_edge.compile.seq2seq.sizes_made import check_made
from tt_edge.runtime.seq2seq.page import PageProcessor


def check_pages(settings: Mapping[str, Any], size: tuple[int, int], source: str) -> None:
    """Warn where pages will be refused for the processor's ``settings``; ``size`` is ``(height, width)`` of what the encoder takes.

    Raises ``InvalidInputError``, naming the checkpoint's ``source``, for settings that are malformed or make another size.
    """
    if not settings:
        return
    check_made(
        lambda: PageProcessor.from_settings(settings).size,
        size,
        source,
        what="pages of",
        instead="pixels, and no image files",
    )
