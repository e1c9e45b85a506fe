"""What the tiny checkpoints of ``tests/models/any_vlm.py`` have otherwise than their classes' defaults, made small."""

from tests.models.differs.base import GRIDS, IMAGE, PATCH, SIDE, SQUARE, VOCABULARY, Differs
from tests.models.differs.grids import GRIDS_OF_PATCHES
from tests.models.differs.tiles import TILES

DIFFERS = TILES | GRIDS_OF_PATCHES

__all__ = ["DIFFERS", "GRIDS", "IMAGE", "PATCH", "SIDE", "SQUARE", "VOCABULARY", "Differs"]
