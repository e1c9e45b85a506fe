"""The source of a request to an encoder-decoder, encoded. Torch-free."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tt_edge.runtime.audio import Audio
from tt_edge.runtime.engine.device_arrays import DeviceArray


@dataclass(frozen=True, eq=False)
class Source:
    """What a decoder attends to: keys and values ``[H, T, D]`` by input name, of which the first ``length`` places are in use.

    They are where the encoder wrote them: on the device, if an engine did, and not too many are kept there.

    ``digest`` is of the content: requests with different sources share no cached keys and values. ``notes`` are for the caller.
    """

    cross: Mapping[str, np.ndarray | DeviceArray]
    length: int
    digest: str
    notes: tuple[str, ...] = ()

    def on_host(self) -> dict[str, np.ndarray]:
        """The keys and values in host memory."""
        return {n: array.numpy() if isinstance(array, DeviceArray) else array for n, array in self.cross.items()}


@dataclass(frozen=True, eq=False)
class Speech:
    """Speech to write down: ``language`` such as ``de`` or ``german`` (``None``: it is detected), ``task`` ``transcribe`` or
    ``translate``. ``prompt`` is a text that comes before it, whose spelling and style the answer follows."""

    audio: Audio
    language: str | None = None
    task: str | None = None
    prompt: str = ""


def digest_of(array: np.ndarray) -> str:
    """A hash of an encoder's input."""
    content = np.ascontiguousarray(array)
    return hashlib.sha256(f"{content.dtype} {content.shape} ".encode() + content.tobytes()).hexdigest()
