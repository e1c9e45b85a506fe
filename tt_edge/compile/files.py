"""Files for a bundle that is not written yet, in memory."""

from __future__ import annotations

from pathlib import Path


class HostFiles(dict[str, bytes]):
    """File contents by name, with the same interface as the files of a bundle."""

    @classmethod
    def of_folder(cls, folder: Path) -> HostFiles:
        """The JSON and template files of a folder."""
        return cls({p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".json", ".jinja")})

    def has(self, name: str) -> bool:
        return name in self

    def read_bytes(self, name: str) -> bytes:
        return self[name]
