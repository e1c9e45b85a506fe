"""Giving memory back to the system."""

from __future__ import annotations

import ctypes
import gc
import os


def map_large_blocks() -> None:
    """Make glibc map blocks of 1 MiB and more individually, so that each returns to the system when it is freed.

    By default glibc raises that threshold up to 32 MiB as blocks are freed, and keeps smaller ones: calibrating AWQ on a
    model of 1 GB then held 1.3 GB of unused memory. The setting stays for the rest of the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # only glibc has it
        mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD of malloc.h


def available_bytes() -> int:
    """Memory that this machine can give to processes without swapping, as the kernel estimates it."""
    with open("/proc/meminfo") as file:
        found = dict(line.split(":", 1) for line in file)
    return int(found["MemAvailable"].split()[0]) * 1024


def builds_at_once(weight_bytes: int, targets: int) -> int:
    """How many engines of a network with so many bytes of weights to build at once: a core and enough memory for each.

    A build's peak is about twice the weights; half a GB is kept free of each. At least one.
    """
    fitting = available_bytes() // (2 * weight_bytes + (1 << 29))
    return max(1, min(targets, len(os.sched_getaffinity(0)), fitting))


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
