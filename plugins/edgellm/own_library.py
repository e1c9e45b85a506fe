"""The files of tt-edge's own kernels and plugins: their names, where they are built, and how they are recognized. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path

#: The file names of the kernels, and of the kernels with TensorRT's plugins around them.
LIBRARY, PLUGIN_LIBRARY = "libtt_edge_kernels.so", "libtt_edge_plugin.so"

#: A symbol that tells a library of these kernels from others.
SYMBOL = "tt_kernels_version"


def default_library() -> Path:
    """Where `tt-edge plugin build` puts the kernels, and where they are looked for: the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tt-edge" / LIBRARY


def has_plugins(library: Path) -> bool:
    """Whether a library exports creators that TensorRT's registry asks for."""
    return b"getCreators" in library.read_bytes()


def is_own(library: Path) -> bool:
    """Whether a file is a library of tt-edge's kernels, with or without plugins."""
    return library.is_file() and SYMBOL.encode() in library.read_bytes()
