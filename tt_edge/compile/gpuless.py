"""Importing and driving torch_tensorrt on a host without a GPU.

torch_tensorrt 2.14 asks ``torch.cuda`` for facts about the present GPU when it is imported (is this a Jetson?) and when
settings are made (the default device), and raises without a driver. None of the answers reaches a network that is
captured and built for named compute capabilities. So on such a host, and only there, these four functions are
replaced for the duration of a ``with`` block by constants, and put back.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

#: What torch_tensorrt is told. Any discrete GPU would do: only Jetson's (7.2, 8.7, 11.0) change its behaviour.
_ANSWERS: dict[str, Any] = {
    "get_device_capability": (8, 9),
    "current_device": 0,
    "synchronize": None,
    "mem_get_info": (16 << 30, 24 << 30),
}


# The import may run in the background; the block below waits for it.
_lock = threading.Lock()


def import_in_background() -> None:
    """Start importing torch_tensorrt (1.5 s) in a thread, for use while something that is not Python takes its time."""

    def load() -> None:
        # An error is not lost: importing again, where torch_tensorrt is needed, raises it.
        with suppress(Exception), torch_tensorrt_on_this_host():
            pass

    threading.Thread(target=load, name="tt-edge-import", daemon=True).start()


@contextmanager
def torch_tensorrt_on_this_host() -> Iterator[ModuleType]:
    """Yield the ``torch_tensorrt`` module, usable for building networks whether or not there is a GPU.

    Inside the block, torch_tensorrt's notices about the missing GPU and about optional packages are silenced; its
    errors are not. One thread at a time.
    """
    with ExitStack() as stack:
        stack.enter_context(_lock)
        if not torch.cuda.is_available():
            for name, answer in _ANSWERS.items():
                stack.enter_context(patch.object(torch.cuda, name, lambda *_, _answer=answer, **__: _answer))
        stack.enter_context(_quiet())
        import torch_tensorrt

        yield torch_tensorrt


@contextmanager
def _quiet() -> Iterator[None]:
    noisy = ("torch_tensorrt", "torch.utils.cpp_extension", "torch._opaque_base", "torch._library.opaque_object")
    levels = {name: logging.getLogger(name).level for name in noisy}
    try:
        for name in noisy:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
