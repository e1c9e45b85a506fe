"""Recording what a run of the golden set showed: in the manifest, or beside a bundle that is signed. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tt_edge import strict_json
from tt_edge.atomic import replace_file
from tt_edge.bundle import update
from tt_edge.bundle.manifest import EngineRecord, Evidence, Word
from tt_edge.doctor.gpu import Gpu, read_gpu
from tt_edge.doctor.system import read_system
from tt_edge.proof.replay import Replay

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle

#: Of a file beside a signed bundle, appended to its name.
SUFFIX = ".evidence.json"


def evidence_of(result: Replay, engine: EngineRecord | None) -> Evidence:
    """What a replay shows. ``engine`` is the decoder's engine that ran, ``None`` for the reference."""
    where = (
        "reference" if engine is None else f"{engine.compute_capability}, {engine.flavour} {engine.tensorrt_version}"
    )
    word = (Word.EVALUATED if engine is None else Word.EXECUTED) if result.passed else Word.FAILED
    steps, prompts = result.rows[0].tokens, len({row.prompt for row in result.rows})
    detail = (
        f"{'matches' if result.passed else 'does NOT match'} Hugging Face over {steps} tokens of {prompts} prompts, largest "
        f"relative error of the logits {result.relative_error:.2e} ({result.tolerance:.2e} allowed in {result.precision}); "
        f"{result.word}"
    )
    return Evidence(f"golden set, {where}", word, detail if engine is None else f"{detail}; {_driver()}")


def _driver() -> str:
    """The driver of the GPU that ran, as far as it says."""
    gpu, kernel = read_gpu(), read_system().driver
    serves = f"driver for CUDA {gpu.driver_cuda}" if isinstance(gpu, Gpu) else "driver unknown"
    return f"{serves}, kernel module {kernel}" if kernel else serves


def record(bundle: Bundle, found: Sequence[Evidence]) -> str:
    """Write ``found`` down; a line that says where, or why nowhere. Nothing is written through links."""
    try:
        if bundle.is_signed:
            return f"the bundle is signed, so this is recorded beside it: {_record_beside(bundle, found)}"
        for evidence in found:
            update.record_evidence(bundle.folder, evidence)
    except OSError as problem:
        return f"not recorded: {problem.strerror}"
    return "recorded in the bundle's manifest"


def beside(bundle: Bundle) -> Path:
    """The file beside a signed bundle."""
    path = bundle.path.resolve()
    return path.with_name(path.name + SUFFIX)


def _record_beside(bundle: Bundle, found: Sequence[Evidence]) -> Path:
    """Keep what the file says of this very manifest, and replace what it says of the same claims."""
    file, digest = beside(bundle), hashlib.sha256(bundle.manifest_bytes).hexdigest()
    claims = {evidence.claim for evidence in found}
    kept = [old for old in read_beside(bundle) if old.claim not in claims]
    data = {"manifest_sha256": digest, "evidence": [asdict(evidence) for evidence in (*kept, *found)]}
    replace_file(file, (json.dumps(data, indent=2) + "\n").encode())
    return file


def read_beside(bundle: Bundle) -> tuple[Evidence, ...]:
    """What was recorded beside ``bundle``, if it is of this manifest; nothing where the file is missing or of another."""
    try:
        data: Any = strict_json.loads(beside(bundle).read_bytes())
        if data["manifest_sha256"] != hashlib.sha256(bundle.manifest_bytes).hexdigest():
            return ()
        return tuple(Evidence.from_dict(evidence) for evidence in data["evidence"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()
