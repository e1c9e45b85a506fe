"""Giving memory back to the system."""

from __future__ import annotations

import ctypes
import gc


def map_large_blocks() -> None:
    """Let glibc take blocks of 1 MiB and more from the system one by one, and give each back when it is freed.

    By itself it raises that bound to 32 MiB as blocks are freed, and keeps smaller ones: calibrating AWQ on a model of 1 GB then
    held 1.3 GB that nobody used. Holds for the rest of the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc's alone
        mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD of malloc.h


def release_memory(*, cycles: bool = False) -> None:
    """Let glibc return freed memory to the system; with ``cycles``, look for what refers to itself alone first (0.3 s).

    glibc keeps freed blocks for later. After calibration that was twice a model's weights, which would lie there while
    TensorRT builds.
    """
    if cycles:
        gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc's alone
        trim(0)
