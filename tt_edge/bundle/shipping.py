"""Making bundles to ship: engines and tokenizer, without the captured network. Torch-free."""

from __future__ import annotations

from pathlib import Path

from tt_edge.bundle.manifest import Manifest, part_file
from tt_edge.bundle.reader import Bundle
from tt_edge.bundle.writer import BundleWriter
from tt_edge.errors import InvalidInputError
from tt_edge.network.storage import NETWORK_FILE, WEIGHTS_FILE


def ship_engines(bundle: Bundle, output: Path | str, *, overwrite: bool = False) -> Manifest:
    """Copy ``bundle`` to ``output`` without its network. The copy cannot be built or verified again.

    The weights are copied only if an engine is stripped of them. Every copied file is checked first. Raises
    ``InvalidInputError`` for a bundle without engines.
    """
    manifest = bundle.manifest
    if not manifest.engines:
        raise InvalidInputError(f"{bundle.path} has no engines to ship; build one with `tt-edge build {bundle.path}`")
    if bare := [part for part in manifest.parts if not manifest.engines_of(part)]:
        raise InvalidInputError(f"{bundle.path} has no {bare[0]} engine; build one with `tt-edge build {bundle.path}`")
    left_out = set()
    for part in manifest.parts:
        left_out.add(part_file(part, NETWORK_FILE))
        if not any(engine.stripped for engine in manifest.engines_of(part)):
            left_out.add(part_file(part, WEIGHTS_FILE))
    names = [name for name in manifest.files if name not in left_out]
    with BundleWriter(output, overwrite=overwrite) as writer:
        bundle.check_content(*names)
        for name in names:
            with writer.open(name) as copy:
                for piece in bundle.file(name).pieces():
                    copy.write(piece)
        for engine in manifest.engines:
            writer.add_engine(engine)
        for evidence in manifest.evidence:
            writer.add_evidence(evidence)
        return writer.commit(manifest.model, manifest.config, manifest.parts)
