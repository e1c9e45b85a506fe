"""A cache of built engines on disk, by content: the same network built again is a copy of a file. Torch-free.

An entry's name is a SHA-256 of everything that decides what the builder makes: the captured network with its weights, the
contract with its optimization profiles, the target, TensorRT's package and version, the build's options, and tt-edge's own
code that turns a network into an engine. An entry is checked against its own SHA-256, record included, before it is used.

Only engines for named compute capabilities are kept: one for the local GPU also depends on that GPU, on its driver and on
timings, and one with plugin layers on a library.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import tt_edge
from tt_edge.atomic import create_held, remove_leftovers
from tt_edge.bundle.manifest import EngineRecord
from tt_edge.compat import Self
from tt_edge.contract import IOContract
from tt_edge.errors import InvalidInputError
from tt_edge.folder import CheckedFile, Folder
from tt_edge.network.build_options import BuildOptions
from tt_edge.network.ir import Network
from tt_edge.network.storage import network_json, write_weights
from tt_edge.tensorrt_api import TensorRT

#: The folder that holds the cache if ``--cache-dir`` is not given; no cache if neither is.
VARIABLE = "TT_EDGE_BUILD_CACHE"
#: Most bytes of a cache, in GB; the entries that were not used for longest are removed.
SIZE_VARIABLE = "TT_EDGE_BUILD_CACHE_GB"
_DEFAULT_GB = 20.0
_SUFFIX = ".engine"
#: The code on the way from a captured network to an engine.
_CODE = (
    "network",
    "contract",
    "bundle/engines.py",
    "bundle/engine_cache.py",
    "tensorrt_api.py",
    "tensorrt_features.py",
)
_PIECE = 16 << 20
_LOGGER = logging.getLogger("tt_edge")


class EngineCache:
    """Engines in ``folder``, which only its owner may write: an engine is a program. At most ``limit`` bytes.

    Raises ``InvalidInputError`` for a folder that cannot be made or read, or that others can write.
    """

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.limit = _limit() if limit is None else limit
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder = Folder.open(path)
            found = os.fstat(self.folder.descriptor)
        except OSError as error:
            raise InvalidInputError(f"build cache {path} cannot be used ({error.strerror}); give another") from error
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise InvalidInputError(
                f"build cache {path} can be written by others, and an engine is a program; `chmod 700` it, or give another"
            )

    @classmethod
    def of(cls, given: str | None) -> EngineCache | None:
        """The cache in the folder ``given``, or in that of ``TT_EDGE_BUILD_CACHE``; ``None`` if neither is set."""
        path = given or os.environ.get(VARIABLE)
        return cls(Path(path).expanduser()) if path else None

    def fetch(self, key: str, destination: BinaryIO) -> tuple[EngineRecord, int] | None:
        """Write the engine of ``key`` to ``destination``; its record and its number of network layers, or ``None``.

        A damaged entry is removed, and counts as none.
        """
        try:
            file = self.folder.file(key + _SUFFIX)
        except OSError:
            return None
        about = _read_header(file)
        if about is None or about.pop("sha256") != _sealed(_sha256(file), about):
            _LOGGER.warning("%s is damaged, so it is removed and the engine is built", file.path)
            with suppress(OSError):  # a cache that may only be read
                self.folder.remove(key + _SUFFIX)
            return None
        for piece in _pieces(file):
            destination.write(piece)
        with suppress(OSError):  # that too, or another process has just removed it
            os.utime(key + _SUFFIX, dir_fd=self.folder.descriptor)  # used last
        return EngineRecord(**about["record"]), int(about["layers"])

    def evict(self) -> None:
        """Remove the entries that were not used for longest, down to the limit."""
        entries = []
        for name in self.folder.names():
            if name.endswith(_SUFFIX):
                with suppress(FileNotFoundError):  # another process removed it
                    found = self.folder.stat(name)
                    entries.append((found.st_mtime_ns, found.st_size, name))
        total = sum(size for _, size, _ in entries)
        for _, size, name in sorted(entries):
            if total <= self.limit:
                break
            self.folder.remove(name)
            total -= size


class KeptEngine:
    """A file to build into: what is written goes to ``destination``, and into ``cache`` once ``keep`` is called.

    A cache that cannot be written is a warning, and no reason to fail a build. Use it as a context manager.
    """

    def __init__(self, cache: EngineCache, key: str, destination: BinaryIO) -> None:
        self._cache, self._name, self._destination = cache, key + _SUFFIX, destination
        self._digest = hashlib.sha256()
        self._partial, self._copy = "", None
        try:
            remove_leftovers(cache.folder, self._name)
            self._partial, self._copy = create_held(cache.folder, self._name, 0o600)
            self._write_copy(bytes(_HEADER))
        except OSError as error:
            self._give_up(error)

    def write(self, data: Any) -> int:
        """Raises ``OSError`` if the destination's disk is full."""
        written = self._destination.write(data)
        self._digest.update(data)
        try:
            self._write_copy(data)
        except OSError as error:
            self._give_up(error)
        return written

    def _write_copy(self, data: Any) -> None:
        left = memoryview(data).cast("B")
        while self._copy is not None and left:
            left = left[self._copy.write(left) or 0 :]

    def keep(self, record: EngineRecord, layers: int) -> None:
        """The build is complete: the entry appears in the cache."""
        about: dict[str, Any] = {"record": asdict(record), "layers": layers}
        about["sha256"] = _sealed(self._digest, about)
        try:
            if self._copy is not None:
                self._copy.seek(0)
                self._write_copy(json.dumps(about).encode().ljust(_HEADER))
                os.fsync(self._copy.fileno())
                self._cache.folder.rename(self._partial, self._name)
                self._partial = ""
                self._cache.evict()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        _LOGGER.warning("the build cache cannot be written (%s), so this engine is not kept", error.strerror)
        self.close()

    def close(self) -> None:
        """Remove what was not kept."""
        if self._copy is not None:
            self._copy.close()
            self._copy = None
        if self._partial:
            with suppress(OSError):
                self._cache.folder.remove(self._partial)
            self._partial = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


#: An entry begins with so many bytes of JSON, padded by spaces.
_HEADER = 4096


def cache_key(
    tensorrt: TensorRT,
    network: Network,
    contract: IOContract,
    target: str | None,
    options: BuildOptions,
    settings: tuple[str, ...],
) -> str | None:
    """The name of the engine in a cache; ``None`` for one that is not kept. ``settings`` are the part and the layout."""
    options, _ = options.fitting(tensorrt)
    has_plugins = any(layer.kind.startswith("PLUGIN") for layer in network.layers)
    if target is None or not tensorrt.builds_ahead_of_time or has_plugins or options.timing_cache is not None:
        return None
    digest = hashlib.sha256()
    parts: tuple[object, ...] = (
        _code(), str(tensorrt.flavour), tensorrt.version, tensorrt.platform, target, options, contract, settings
    )  # fmt: skip
    for part in parts:
        digest.update(repr(part).encode() + b"\0")
    digest.update(network_json(network))
    write_weights(network.weights, cast(BinaryIO, _Hashing(digest)))
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _code() -> str:
    """A hash of tt-edge's code between a network and its engine: another version may build another engine."""
    package = Path(tt_edge.__file__).parent
    files = [
        file for name in _CODE for file in sorted([package / name, *(package / name).rglob("*.py")]) if file.is_file()
    ]
    digest = hashlib.sha256(tt_edge.__version__.encode())
    for file in files:
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


class _Hashing:
    """Hashes what is written to it."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return memoryview(data).nbytes


def _limit() -> int:
    given = os.environ.get(SIZE_VARIABLE, "")
    try:
        size = float(given) if given else _DEFAULT_GB
    except ValueError:
        size = -1.0
    if not 0 <= size < 1e9:
        raise InvalidInputError(f"{SIZE_VARIABLE} is {given!r}; give a number of GB, such as {_DEFAULT_GB:g}")
    return int(size * 1e9)


def _read_header(file: CheckedFile) -> dict[str, Any] | None:
    """``None`` for what is no entry of this user."""
    try:
        if os.fstat(file.descriptor).st_uid != os.geteuid():
            return None
        about = json.loads(file.read(_HEADER))
        EngineRecord(**about["record"])
        is_complete = set(about) == {"record", "layers", "sha256"} and isinstance(about["layers"], int)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return about if is_complete else None


def _pieces(file: CheckedFile) -> Iterator[bytes]:
    """The engine, behind the header."""
    start = _HEADER
    for piece in file.pieces(_PIECE):
        yield piece[start:]
        start = 0


def _sha256(file: CheckedFile) -> Any:
    digest = hashlib.sha256()
    for piece in _pieces(file):
        digest.update(piece)
    return digest


def _sealed(engine: Any, about: Mapping[str, Any]) -> str:
    """The SHA-256 of an engine that is hashed already, followed by what the header says of it."""
    digest = engine.copy()
    digest.update(json.dumps(about, sort_keys=True).encode())
    return str(digest.hexdigest())
