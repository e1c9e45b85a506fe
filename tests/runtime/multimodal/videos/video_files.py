"""Video files for tests, written by PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np


def write_film(file: Path, frames: Sequence[np.ndarray], rate: int, codec: str = "mpeg4") -> str:
    """``frames`` uint8 ``[H, W, 3]``, ``rate`` of them a second; the format is that of the file's ending."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return str(file)
