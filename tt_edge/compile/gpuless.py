"""Importing and driving torch_tensorrt on a host without a GPU.

torch_tensorrt 2.14 asks ``torch.cuda`` about the present GPU when it is imported (is this a Jetson?) and when settings
are made (the default device), and raises without a driver. None of the answers affects a network that is captured and
built for named compute capabilities. So on such a host, and only there, four functions of ``torch.cuda`` are replaced by
constants for the duration of a ``with`` block, and restored afterwards.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

#: What the replaced functions return. Any discrete GPU would do: torch_tensorrt treats only Jetson (7.2, 8.7, 11.0) specially.
_ANSWERS: dict[str, Any] = {
    "get_device_capability": (8, 9),
    "current_device": 0,
    "synchronize": None,
    "mem_get_info": (16 << 30, 24 << 30),
}

# Printed by the C++ library when it is loaded on a machine without a GPU; expected here, so it is filtered out.
_NO_DEVICE_NOTICE = b"Unable to read CUDA capable devices"


_REINPLACE = "torch._inductor.fx_passes.reinplace"


@contextmanager
def torch_tensorrt_on_this_host() -> Iterator[ModuleType]:
    """Yield the ``torch_tensorrt`` module, usable for building networks whether or not there is a GPU.

    Inside the block, torch_tensorrt's notices about the missing GPU and about optional packages are silenced; its
    errors are not.
    """
    with ExitStack() as stack:
        if not torch.cuda.is_available():
            for name, answer in _ANSWERS.items():
                stack.enter_context(patch.object(torch.cuda, name, lambda *_, _answer=answer, **__: _answer))
        stack.enter_context(_quiet())
        with _without_line(_NO_DEVICE_NOTICE), _without_modelopt(), _without_inductor():
            import torch_tensorrt

        yield torch_tensorrt


@contextmanager
def _without_modelopt() -> Iterator[None]:
    """Hide modelopt from torch_tensorrt's import, which would import it for converters that are not used here.

    It takes as long to import as torch and torch_tensorrt together. In the same process, torch_tensorrt then cannot compile
    modules with modelopt's own operators; import modelopt first for that.
    """
    if "modelopt" in sys.modules:
        yield
        return
    sys.modules["modelopt"] = None  # type: ignore[assignment] # an import then fails
    try:
        yield
    finally:
        del sys.modules["modelopt"]


@contextmanager
def _without_inductor() -> Iterator[None]:
    """Keep most of Inductor, the compiler of ``torch.compile``, out of torch_tensorrt's import, which would take twice as long.

    torch_tensorrt imports the module below only so that another one, which it needs, can be imported on older PyTorch; it
    uses nothing of it. An import of it afterwards, as by ``torch.compile``, gets the real one.
    """
    if _REINPLACE in sys.modules:
        yield
        return
    sys.modules[_REINPLACE] = ModuleType(_REINPLACE)
    try:
        yield
    finally:
        del sys.modules[_REINPLACE]


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


@contextmanager
def _without_line(text: bytes) -> Iterator[None]:
    """Filter lines with ``text`` out of the process's standard error, including output of native code."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as buffer:
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            buffer.seek(0)
            for line in buffer:
                if text not in line:
                    os.write(2, line)
