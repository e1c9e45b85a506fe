"""Prefixes on disk: a safetensors file of token ids, keys and values, and the fingerprint of the model they are of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tt_edge.atomic import replacing
from tt_edge.bundle.manifest import DECODER, part_file
from tt_edge.contract import IOContract
from tt_edge.errors import BundleError
from tt_edge.folder import CheckedFile, Folder
from tt_edge.network.storage import WEIGHTS_FILE, read_weights, write_weights
from tt_edge.runtime.engine.kv_rows import KVPrefix, region
from tt_edge.runtime.scheduling.prefix_cache import PrefixCache

if TYPE_CHECKING:
    from tt_edge.bundle.manifest import Manifest

_FINGERPRINT, _TOKENS = "fingerprint", "tokens"


def fingerprint(manifest: Manifest) -> bytes:
    """32 bytes that differ where keys and values may: by model, weights, and the layout of the cache."""
    files, decoder = manifest.files, part_file(DECODER, WEIGHTS_FILE)
    weights = [files[decoder].sha256] if decoder in files else sorted(files[e.file].sha256 for e in manifest.engines)
    contract = manifest.contract.to_dict()
    text = json.dumps([manifest.model.config_sha256, weights, contract], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def save_prefixes(prefixes: PrefixCache, path: Path, model: bytes) -> None:
    """Write ``prefixes``; the file at ``path`` is replaced when the new one is complete, and only then."""
    arrays = {_FINGERPRINT: np.frombuffer(model, np.uint8)}
    for number, prefix in enumerate(prefixes.prefixes):
        arrays[f"{number}/{_TOKENS}"] = np.array(prefix.token_ids, np.int64)
        arrays |= {f"{number}/{name}": data for name, data in prefix.tensors.items()}
    with replacing(Folder.open(path.parent), path.name) as file:
        write_weights(arrays, file)


def load_prefixes(path: Path, model: bytes, contract: IOContract) -> list[KVPrefix]:
    """Read what ``save_prefixes`` wrote, memory-mapped. Raises ``BundleError`` for a file of another model, or a damaged one."""
    try:
        arrays = read_weights(CheckedFile.open(path))
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); give another file of prefixes") from error
    if arrays.get(_FINGERPRINT, np.zeros(0, np.uint8)).tobytes() != model:
        raise BundleError(f"{path} holds prefixes of another model or bundle; delete it, and it is made again")
    found = []
    for number in range(sum(name.endswith(f"/{_TOKENS}") for name in arrays)):
        try:
            tokens = arrays[f"{number}/{_TOKENS}"]
            tensors = {pair.past: arrays[f"{number}/{pair.past}"] for pair in contract.kv_cache}
        except KeyError as error:
            raise BundleError(f"{path} lacks {error.args[0]!r}; delete it, and it is made again") from None
        for name, data in tensors.items():
            place = region(contract.input(name), contract, row=0)
            if data.dtype != np.uint8 or data.shape != (place.runs, len(tokens), place.token_bytes):
                raise BundleError(f"{path} has {name} of shape {data.shape}; delete it, and it is made again")
        fits = tokens.dtype == np.int64 and tokens.ndim == 1 and 0 < len(tokens) <= contract.max_seq_len
        if not fits or tokens.min() < 0 or tokens.max() >= contract.vocab_size:
            raise BundleError(f"{path} has token ids that the model lacks; delete it, and it is made again")
        found.append(KVPrefix(tuple(tokens.tolist()), tensors))
    return found
