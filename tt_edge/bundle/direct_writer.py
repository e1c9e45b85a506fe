"""Writing large files around the page cache. Torch-free.

A bundle's weights and engines are as large as the model, are written once and are not read soon. In the page cache they would
take the place of the checkpoint's mapped weights, which are still needed. Filling the cache may cost more than the disk does, as
on a virtual machine whose pages are new to its host: 0.2 to 2.2 s a GB there, and 0.4 s without it (ext4).
"""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os

#: Offsets, lengths and addresses of direct writes are multiples of this: the page size, which no disk's block exceeds.
_BLOCK = 4096
_BUFFER = 8 << 20


def write_all(file: io.FileIO, view: memoryview) -> None:
    """Write all of ``view``, of bytes; raises ``OSError`` when the disk is full."""
    while view.nbytes:
        written = file.write(view)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        view = view[written:]


class DirectWriter:
    """Appends to ``file``, which is unbuffered, with ``O_DIRECT``; as usual where the file system does not have it.

    Bytes are held back until they fill a buffer of 8 MiB, or until ``finish``. Raises ``OSError`` when the disk is full.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._memory = memoryview(mmap.mmap(-1, _BUFFER))  # begins at a page
        self._filled = 0
        self._before_block = -file.tell() % _BLOCK
        self._flags = fcntl.fcntl(file, fcntl.F_GETFL)
        self._is_direct = hasattr(os, "O_DIRECT")

    def write(self, view: memoryview) -> None:
        """Append ``view``, of bytes."""
        head, view = view[: self._before_block], view[self._before_block :]
        write_all(self._file, head)
        self._before_block -= head.nbytes
        while view.nbytes:
            part = view[: _BUFFER - self._filled]
            self._memory[self._filled : self._filled + part.nbytes] = part
            self._filled += part.nbytes
            view = view[part.nbytes :]
            if self._filled == _BUFFER:
                self._write_buffer()

    def finish(self) -> None:
        """Write what was held back. More may follow only as usual."""
        write_all(self._file, self._memory[: self._filled])
        self._filled = 0

    def _write_buffer(self) -> None:
        place = self._file.tell()
        if self._is_direct:
            try:
                fcntl.fcntl(self._file, fcntl.F_SETFL, self._flags | os.O_DIRECT)
                write_all(self._file, self._memory)
            except OSError as error:
                if error.errno != errno.EINVAL:  # the file system's answer to direct writes, or to blocks of this size
                    raise
                self._is_direct = False
            finally:
                fcntl.fcntl(self._file, fcntl.F_SETFL, self._flags)
        write_all(self._file, self._memory[self._file.tell() - place :])
        self._filled = 0
