"""The bundle: one folder with everything that a target needs. Torch-free."""

from tt_edge.bundle.manifest import EngineRecord, Evidence, Manifest, ModelIdentity, Word
from tt_edge.bundle.reader import Bundle
from tt_edge.bundle.writer import BundleWriter

__all__ = ["Bundle", "BundleWriter", "EngineRecord", "Evidence", "Manifest", "ModelIdentity", "Word"]
