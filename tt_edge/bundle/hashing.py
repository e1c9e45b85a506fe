"""Hashing files while they are written, so that the manifest needs no second read. Torch-free."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from typing import Any

from tt_edge.bundle.direct_writer import DirectWriter, write_all
from tt_edge.bundle.manifest import FileRecord

#: Chunks of at least this many bytes are hashed and written in parallel.
_LARGE = 1 << 20


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns  # a new file may well get the inode of one that was removed


class HashingFile(io.RawIOBase):
    """Writes to an unbuffered file and hashes what it writes. The record is available after ``finish`` or ``close``.

    From the first large chunk on, it writes around the page cache.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._direct: DirectWriter | None = None
        self._digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write all of ``data``; raises ``OSError`` when the disk is full."""
        view = memoryview(data).cast("B")
        if view.nbytes < _LARGE:
            self._digest.update(view)
            self._append(view)
        else:  # both release the GIL
            self._direct = self._direct or DirectWriter(self._file)
            hashing = threading.Thread(target=self._digest.update, args=(view,))
            hashing.start()
            try:
                self._append(view)
            finally:
                hashing.join()
        self.size += view.nbytes
        return view.nbytes

    def _append(self, view: memoryview) -> None:
        if self._direct is None:
            write_all(self._file, view)
        else:
            self._direct.write(view)

    def finish(self) -> None:
        """Flush the file to disk, to survive a loss of power. The file stays open, and so does a lock on it."""
        if self._direct is not None:
            self._direct.finish()
        os.fsync(self._file.fileno())
        self._state = os.fstat(self._file.fileno())

    def is_still(self, found: os.stat_result) -> bool:
        """Whether ``found``, the status of the file that has the name now, is that of the finished file, unchanged."""
        return os.path.samestat(found, self._state) and _state(found) == _state(self._state)

    def release(self) -> None:
        """Close without flushing to disk and without a record."""
        self._file.close()
        super().close()

    def close(self) -> None:
        if not self.closed:
            try:
                self.finish()
            finally:
                self.release()

    @property
    def record(self) -> FileRecord:
        return FileRecord(self.size, self._digest.hexdigest())
