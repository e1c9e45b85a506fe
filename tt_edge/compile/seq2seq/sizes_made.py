"""The size that a checkpoint's processor makes, checked when the model is compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from tt_edge.errors import BundleError, InvalidInputError, UnsupportedModelError

_LOGGER = logging.getLogger("tt_edge")


def check_made(read: Callable[[], Any], size: Any, source: str, *, what: str, instead: str, hint: str = "") -> None:
    """Compare the size that ``read`` finds in the settings with ``size``, which the encoder takes.

    Warns that the bundle takes what is there ``instead`` if the settings are not followed. Raises ``InvalidInputError``, naming the
    checkpoint's ``source``, for settings that are malformed or make ``what`` (pages, features) of another size.
    """
    try:
        made = read()
    except UnsupportedModelError as error:
        _LOGGER.warning("the bundle takes %s: %s", instead, error)
        return
    except BundleError as error:
        why = str(error).partition("; compile the model again")[0]
        raise InvalidInputError(f"checkpoint {source}: {why}; correct it, or download the checkpoint again") from error
    if made != size:
        raise InvalidInputError(
            f"checkpoint {source}: preprocessor_config.json makes {what} {made}, and the encoder takes {size}; correct it{hint}"
        )
