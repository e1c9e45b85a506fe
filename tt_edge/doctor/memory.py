"""Memory of the machine: what is free, huge pages, and the contiguous memory (CMA) of a Jetson."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tt_edge.doctor.files import read_text


@dataclass(frozen=True)
class Memory:
    """Bytes, from ``/proc/meminfo``; 0 where the kernel does not say. ``transparent`` is ``always``, ``madvise``, ``never``
    or "" where the kernel has no transparent huge pages."""

    total: int = 0
    available: int = 0
    swap_free: int = 0
    huge_page: int = 0
    huge_pages: int = 0
    huge_pages_free: int = 0
    cma_total: int = 0
    cma_free: int = 0
    transparent: str = ""


def read_memory(root: Path = Path("/")) -> Memory:
    """Look at the files below ``root``."""
    lines = read_text(root, "proc/meminfo").splitlines()
    found = {m[1]: int(m[2]) << (10 if m[3] else 0) for line in lines if (m := re.match(r"(\w+):\s+(\d+)( kB)?", line))}
    transparent = re.search(r"\[(\w+)\]", read_text(root, "sys/kernel/mm/transparent_hugepage/enabled"))
    return Memory(
        total=found.get("MemTotal", 0),
        available=found.get("MemAvailable", 0),
        swap_free=found.get("SwapFree", 0),
        huge_page=found.get("Hugepagesize", 0),
        huge_pages=found.get("HugePages_Total", 0),
        huge_pages_free=found.get("HugePages_Free", 0),
        cma_total=found.get("CmaTotal", 0),
        cma_free=found.get("CmaFree", 0),
        transparent=transparent[1] if transparent else "",
    )


def free_disk(folder: Path) -> int:
    """Bytes that are free where ``folder`` lies, or will lie."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
