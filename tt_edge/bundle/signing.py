"""Signatures: who made a bundle. Torch-free; needs ``cryptography`` (the ``sign`` extra).

``manifest.sig`` is the Ed25519 signature of the bytes of ``manifest.json``, 64 bytes and nothing else, and the manifest has
the SHA-256 of every other file. Keys are PEM files as OpenSSL writes them, so a key in a hardware module can sign, and
anybody can check, without tt-edge:

    openssl pkeyutl -sign -rawin -inkey private.pem -in manifest.json -out manifest.sig
    openssl pkeyutl -verify -rawin -pubin -inkey public.pem -in manifest.json -sigfile manifest.sig
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tt_edge.bundle.manifest import MANIFEST_FILE, SIGNATURE_FILE
from tt_edge.errors import BundleError, InvalidInputError, MissingDependencyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

#: A file with the public keys that bundles must be signed by, where the caller names none.
REQUIRE_SIGNATURE = "TT_EDGE_REQUIRE_SIGNATURE"
_SIGNATURE_BYTES = 64
_MAX_KEY_FILE = 1 << 20
_MAKE_ONE = "make one with `tt-edge sign --new-key NAME`"


def new_key(name: str, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """Make a key pair: ``NAME.private.pem``, for its owner alone to read, and ``NAME.public.pem``; never over a file."""
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    locked = s.BestAvailableEncryption(passphrase) if passphrase else s.NoEncryption()
    private = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, locked)
    public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    paths = Path(f"{name}.private.pem"), Path(f"{name}.public.pem")
    for path in paths:
        if path.exists():
            raise InvalidInputError(f"{path} exists already; give another --new-key")
    for path, content, mode in zip(paths, (private, public), (0o600, 0o644), strict=True):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    return paths


def sign(bundle: Path, private_key: Path, passphrase: bytes | None = None) -> None:
    """Sign a bundle whose files are what its manifest says; an older signature is replaced.

    Raises ``BundleError`` for a damaged bundle, and ``InvalidInputError`` for a file that is no private key.
    """
    from tt_edge.bundle.reader import Bundle
    from tt_edge.bundle.update import locked, replace_file

    key = read_private_key(private_key, passphrase)
    with locked(bundle):
        opened = Bundle.open(bundle)
        opened.verify()
        replace_file(bundle / SIGNATURE_FILE, key.sign(opened.manifest_bytes))


def check_signature(bundle: Path, manifest: bytes, public_keys: Path) -> None:
    """Raise ``BundleError`` unless ``manifest.sig`` is one of these keys' signature of the content ``manifest``."""
    from cryptography.exceptions import InvalidSignature

    keys = read_public_keys(public_keys)
    path = bundle / SIGNATURE_FILE
    try:
        with path.open("rb") as file:
            signature = file.read(_SIGNATURE_BYTES + 1)
    except OSError as error:
        raise BundleError(
            f"{bundle} is not signed ({SIGNATURE_FILE}: {error.strerror}) and {public_keys} is required; "
            "sign it with `tt-edge sign`"
        ) from error
    for key in keys:
        try:
            key.verify(signature, manifest)
            return
        except InvalidSignature:
            continue
    raise BundleError(
        f"{bundle} is not signed with {public_keys}: another key signed it, or {MANIFEST_FILE} was changed since "
        "(building an engine does so); use the bundle as it was signed, or sign it again"
    )


def read_private_key(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """An Ed25519 key from a PEM file, PKCS #8. Raises ``InvalidInputError`` for anything else."""
    content = _read(path, "private key")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(content, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInputError(f"{path} is no usable private key ({_one_line(error)}); {_MAKE_ONE}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInputError(f"{path} is a {type(key).__name__}, not an Ed25519 key; {_MAKE_ONE}")
    return key


def read_public_keys(path: Path) -> list[Ed25519PublicKey]:
    """The Ed25519 keys of a PEM file: one, or several, of which any may sign. Raises ``InvalidInputError``."""
    content = _read(path, "public key")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    blocks = re.findall(rb"-----BEGIN [^-]+-----.*?-----END [^-]+-----", content, re.DOTALL)
    try:
        keys = [load_pem_public_key(block) for block in blocks]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInputError(f"{path} is no usable public key ({_one_line(error)}); {_MAKE_ONE}") from error
    ed25519 = [key for key in keys if isinstance(key, Ed25519PublicKey)]
    if not keys or len(ed25519) < len(keys):
        raise InvalidInputError(f"{path} has {len(keys)} public keys, of which {len(ed25519)} are Ed25519; {_MAKE_ONE}")
    return ed25519


def _read(path: Path, what: str) -> bytes:
    _require_cryptography()
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_FILE)
    except OSError as error:
        raise InvalidInputError(f"{what} {path} cannot be read ({error.strerror}); {_MAKE_ONE}") from error


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("signatures need the package cryptography; install tt-edge[sign]") from error


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
