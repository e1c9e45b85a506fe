"""Small tensors that lie next to each other, so that one copy moves all of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tt_edge import cuda

#: Bytes. TensorRT does not say how tensors must be aligned; what ``cudaMalloc`` guarantees is enough.
ALIGNMENT = 256

#: Bytes up to which a block is copied as a whole, unused places included. A copy in a graph takes 1 to 2 µs, and the bus moves
#: this much in about the same time.
ONE_COPY = 64 << 10


class Block:
    """Tensors of given sizes in bytes, on the device and in page-locked host memory, in the same places of both."""

    def __init__(self, sizes: Mapping[str, int], stream: cuda.Stream) -> None:
        self._offsets: dict[str, int] = {}
        end = 0
        for name, nbytes in sizes.items():
            self._offsets[name] = end
            end += -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT
        self._host = cuda.HostBuffer(end)
        try:
            self._device = cuda.Buffer(end)
        except BaseException:
            self._host.close()
            raise
        self._all = self._host.view((self._host.nbytes,), np.dtype(np.uint8))
        self._all[:] = 0
        self._device.fill_zero(stream)

    def __contains__(self, name: str) -> bool:
        return name in self._offsets

    def address(self, name: str) -> int:
        """Where the tensor ``name`` is on the device."""
        return self._device.address + self._offsets[name]

    def view(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The tensor ``name`` in host memory."""
        return self._host.view(shape, dtype, self._offsets[name])

    def to_device(self, views: Mapping[str, np.ndarray], stream: cuda.Stream) -> None:
        """Queue copies of ``views``, of this block, to the device."""
        if self._all.nbytes <= ONE_COPY:
            self._device.copy_from(self._all, stream)
            return
        for name, array in views.items():
            self._device.copy_from(array, stream, self._offsets[name])

    def to_host(self, views: Mapping[str, np.ndarray], stream: cuda.Stream) -> None:
        """Queue copies of ``views``, of this block, from the device."""
        if self._all.nbytes <= ONE_COPY:
            self._device.copy_to(self._all, stream)
            return
        for name, array in views.items():
            self._device.copy_to(array, stream, self._offsets[name])

    def close(self) -> None:
        """Release the memory. Closing twice is harmless."""
        self._host.close()
        self._device.close()
