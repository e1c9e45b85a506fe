"""Keys that sign bundles, and signatures checked with them. Torch-free; needs ``cryptography`` (the ``sign`` extra).

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

from tt_edge.atomic import replacing
from tt_edge.bundle.names import MANIFEST_FILE, SIGNATURE_FILE
from tt_edge.errors import BundleError, InvalidInputError, MissingDependencyError
from tt_edge.folder import Folder, NotAFileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

#: The environment variable with a file of public keys; bundles must be signed with one, unless the caller gives a file.
REQUIRE_SIGNATURE = "TT_EDGE_REQUIRE_SIGNATURE"
_SIGNATURE_BYTES = 64
_MAX_KEY_FILE = 1 << 20
_MAKE_ONE = "make one with `tt-edge sign --new-key NAME`"


def new_key(name: str, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """Make a key pair: ``NAME.private.pem``, which only its owner can read, and ``NAME.public.pem``; never overwrites.

    Writes both files completely, or neither. Raises ``InvalidInputError`` if one of them exists or cannot be written.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    locked = s.BestAvailableEncryption(passphrase) if passphrase else s.NoEncryption()
    secret = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, locked)
    public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    paths = Path(f"{name}.private.pem"), Path(f"{name}.public.pem")
    for path in paths:
        if os.path.lexists(path):
            raise InvalidInputError(f"{path} exists already; give another --new-key")
    try:
        folder = Folder.open(paths[0].parent)
        with replacing(folder, paths[1].name, exclusive=True) as file:
            file.write(public)
        try:
            with replacing(folder, paths[0].name, 0o600, exclusive=True) as file:
                file.write(secret)
        except BaseException:
            folder.remove(paths[1].name)
            raise
    except FileExistsError as error:
        raise InvalidInputError(f"{error.filename} exists already; give another --new-key") from error
    except OSError as error:
        raise InvalidInputError(
            f"{paths[0]} cannot be written ({error.strerror}); free space, or give another --new-key"
        ) from error
    return paths


def check_signature(bundle: Folder, manifest: bytes, public_keys: Path) -> None:
    """Raise ``BundleError`` unless ``manifest.sig`` is a signature of the content ``manifest`` by one of these keys."""
    keys = read_public_keys(public_keys)
    from cryptography.exceptions import InvalidSignature

    try:
        signature = bundle.file(SIGNATURE_FILE).read(_SIGNATURE_BYTES + 1)
    except OSError as error:
        reason = f"it is {error.strerror}" if isinstance(error, NotAFileError) else error.strerror
        raise BundleError(
            f"{bundle.path} is not signed ({SIGNATURE_FILE}: {reason}) and {public_keys} is required; "
            "sign it with `tt-edge sign`"
        ) from error
    for key in keys:
        try:
            key.verify(signature, manifest)
            return
        except InvalidSignature:
            continue
    raise BundleError(
        f"{bundle.path} is not signed with {public_keys}: another key signed it, or {MANIFEST_FILE} was changed since "
        "(building an engine does so); use the bundle as it was signed, or sign it again"
    )


def required_keys(given: Path | str | None) -> Path | None:
    """The file of public keys that a bundle must be signed with: ``given``, that of the environment variable, or none.

    Raises ``InvalidInputError`` for an empty name, as a script with an unset variable would pass.
    """
    for source, value in (("--require-signature", given), (REQUIRE_SIGNATURE, os.environ.get(REQUIRE_SIGNATURE))):
        if value is not None:
            if not str(value).strip():
                raise InvalidInputError(f"{source} is empty; give a file of public keys, or omit it to open any bundle")
            return Path(value)
    return None


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
    """The Ed25519 keys of a PEM file: one or more; any of them may sign. Raises ``InvalidInputError``."""
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
