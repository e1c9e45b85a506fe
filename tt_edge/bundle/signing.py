"""Signing a bundle. Torch-free; needs ``cryptography`` (the ``sign`` extra)."""

from __future__ import annotations

from pathlib import Path

from tt_edge.atomic import replacing
from tt_edge.bundle.keys import read_private_key
from tt_edge.bundle.names import SIGNATURE_FILE
from tt_edge.bundle.reader import Bundle


def sign(path: Path, private_key: Path, passphrase: bytes | None = None) -> None:
    """Check the bundle's files against its manifest, then sign it; an older signature is replaced.

    Raises ``BundleError`` for a damaged bundle, and ``InvalidInputError`` for a file that is no private key.
    """
    key = read_private_key(private_key, passphrase)
    folder = Bundle.open(path).folder
    with folder.locked():
        bundle = Bundle.in_folder(folder)  # again: the manifest may have been replaced before we held the lock
        bundle.verify()
        with replacing(folder, SIGNATURE_FILE) as file:
            file.write(key.sign(bundle.manifest_bytes))
