"""A small bundle around the tests' decoder, and edits of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.models.decoders import compiled
from tt_edge.bundle import BundleWriter, EngineRecord, Evidence, Manifest, ModelIdentity
from tt_edge.bundle.manifest import DECODER, part_file
from tt_edge.config import CompileConfig, Precision
from tt_edge.network.storage import write_network

ENGINE = "engines/test-sm89.engine"
IDENTITY = ModelIdentity("Qwen2ForCausalLM", "qwen2", "tiny", "/models/tiny", 123, "0" * 64)
CONFIG = CompileConfig.of(precision=Precision.FP32, max_batch=3, max_input_len=8, max_seq_len=48)


def write_bundle(path: Path, *, overwrite: bool = False, note: bytes = b"{}") -> Manifest:
    """A whole bundle with a made-up engine; ``note`` is what its config.json holds."""
    network, contract = compiled()
    with BundleWriter(path, overwrite=overwrite) as writer:
        writer.write_bytes("config.json", note)
        write_network(network, lambda name: writer.open(part_file(DECODER, name)))
        writer.write_bytes(ENGINE, b"engine" * 100)
        writer.add_engine(EngineRecord(ENGINE, "tensorrt_rtx", "1.6.1.1", "linux_x86_64", "sm89", 600, 1.5))
        writer.add_evidence(Evidence("engine for sm89", "built", "by tensorrt_rtx 1.6.1.1"))
        return writer.commit(IDENTITY, CONFIG, {DECODER: contract})


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Apply ``change`` to the parsed manifest of the bundle at ``path``."""
    file = path / "manifest.json"
    data = json.loads(file.read_bytes())
    change(data)
    file.write_text(json.dumps(data))


def flip_byte(file: Path, position: int = -1) -> None:
    """Change one byte of ``file`` and not its size."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
