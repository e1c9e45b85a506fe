"""Files of the bundle to be, in memory."""

from __future__ import annotations

from pathlib import Path


class HostFiles(dict[str, bytes]):
    """Contents by name, asked for as those of a bundle are."""

    @classmethod
    def of_folder(cls, folder: Path) -> HostFiles:
        """The JSON and template files of a folder."""
        return cls({p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".json", ".jinja")})

    def has(self, name: str) -> bool:
        return name in self

    def read_bytes(self, name: str) -> bytes:
        return self[name]
