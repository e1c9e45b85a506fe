"""The image processor of an encoder-decoder that reads pages, checked when it is compiled."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from tt_edge.errors import BundleError, InvalidInputError, UnsupportedModelError
from tt_edge.runtime.seq2seq.page import PageProcessor

_LOGGER = logging.getLogger("tt_edge")


def check_pages(settings: Mapping[str, Any], size: tuple[int, int], source: str) -> None:
    """Warn where pages will be refused for the processor's ``settings``; ``size`` is ``(height, width)`` of what the encoder takes.

    Raises ``InvalidInputError``, naming the checkpoint's ``source``, for settings that are malformed or make another size.
    """
    if not settings:
        return
    try:
        made = PageProcessor.from_settings(settings).size
    except UnsupportedModelError as error:
        _LOGGER.warning("the bundle takes pixels, and no image files: %s", error)
        return
    except BundleError as error:
        what = str(error).partition("; compile the model again")[0]
        raise InvalidInputError(f"checkpoint {source}: {what}; correct it, or download the checkpoint again") from error
    if made != size:
        raise InvalidInputError(
            f"checkpoint {source}: preprocessor_config.json makes pages of {made}, and the encoder takes {size}; correct it"
        )
