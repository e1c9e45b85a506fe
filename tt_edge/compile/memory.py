"""Giving memory back to the system."""

from __future__ import annotations

import ctypes
import gc


def map_large_blocks() -> None:
    """Make glibc map blocks of 1 MiB and more individually, so that each returns to the system when it is freed.

    By default glibc raises that threshold up to 32 MiB as blocks are freed, and keeps smaller ones: calibrating AWQ on a
    model of 1 GB then held 1.3 GB of unused memory. The setting stays for the rest of the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # only glibc has it
        mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD of malloc.h


def release_memory(*, cycles: bool = False) -> None:
    """Make glibc return freed memory to the system; with ``cycles``, run the cyclic garbage collector first (0.3 s).

    glibc keeps freed blocks for reuse. After calibration that was twice the size of a model's weights, which would stay
    allocated while TensorRT builds.
    """
    if cycles:
        gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # only glibc has it
        trim(0)
