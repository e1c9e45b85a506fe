"""Files written around the page cache hold what was written, on file systems with and without such writes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tt_edge.bundle.direct_writer import DirectWriter
from tt_edge.bundle.hashing import HashingFile

MIB = 1 << 20
CONTENT = np.random.default_rng(0).integers(0, 256, 40 * MIB, dtype=np.uint8).tobytes()


@pytest.mark.parametrize(
    "sizes", [(1, 20 * MIB + 1, 3), (4096, 8 * MIB, 8 * MIB), (100, MIB, 5 * MIB, 99, 18 * MIB), (16 * MIB,)]
)
def test_the_file_holds_what_was_written(tmp_path, sizes):
    with HashingFile((tmp_path / "file").open("xb", buffering=0)) as file:
        place = 0
        for size in sizes:
            assert file.write(CONTENT[place : place + size]) == size
            place += size
    assert (tmp_path / "file").read_bytes() == CONTENT[:place]
    assert file.record.size == place
    assert file.record.sha256 == hashlib.sha256(CONTENT[:place]).hexdigest()


def test_whole_blocks_leave_the_page_cache_as_it_was(tmp_path, monkeypatch):
    """Every write of a full buffer is a direct one, from a block's edge to a block's edge."""
    writes = []

    class Recorded(io.FileIO):
        def write(self, data):
            writes.append((self.tell(), len(data), bool(fcntl.fcntl(self, fcntl.F_GETFL) & os.O_DIRECT)))
            return super().write(data)

    with Recorded(tmp_path / "file", "xb") as file:
        file.write(b"header")
        writer = DirectWriter(file)
        writer.write(memoryview(CONTENT)[: 20 * MIB])
        writer.finish()
    assert writes == [
        (0, 6, False),
        (6, 4090, False),
        (4096, 8 * MIB, True),
        (4096 + 8 * MIB, 8 * MIB, True),
        (4096 + 16 * MIB, 4 * MIB - 4090, False),
    ]
    assert (tmp_path / "file").read_bytes() == b"header" + CONTENT[: 20 * MIB]


@pytest.mark.parametrize("refuses", ["the flag", "a write"])
def test_a_file_system_without_direct_writes(tmp_path, monkeypatch, refuses):
    tried = []

    class Refusing(io.FileIO):
        def write(self, data):
            if refuses == "a write" and fcntl.fcntl(self, fcntl.F_GETFL) & os.O_DIRECT:
                tried.append(len(data))
                raise OSError(errno.EINVAL, "Invalid argument")
            return super().write(data)

    real = fcntl.fcntl

    def control(file, command, argument=0):
        if refuses == "the flag" and command == fcntl.F_SETFL and argument & os.O_DIRECT:
            tried.append(argument)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(file, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", control)
    with HashingFile(Refusing(tmp_path / "file", "xb")) as file:
        file.write(CONTENT[:100])
        file.write(CONTENT[100:])
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(tried) == 1, "asked once"


def test_a_full_disk(tmp_path):
    """A file may take 10 MiB here, so the second buffer does not fit."""
    code = (
        "import sys; from tt_edge.bundle.hashing import HashingFile\n"
        "file = HashingFile(open(sys.argv[1], 'xb', buffering=0))\n"
        "try: file.write(bytes(20 << 20))\n"
        "except OSError as error: print(error.strerror)"
    )

    def limit() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10 * MIB, 10 * MIB))

    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "file"],
        cwd=root,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "File too large\n"
