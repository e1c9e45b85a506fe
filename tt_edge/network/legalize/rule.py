"""The base class of rewrite rules. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from tt_edge.network.ir import Layer
from tt_edge.network.legalize.editor import Editor
from tt_edge.tensorrt_features import Feature


class Rule(ABC):
    """Replaces layers that need ``feature`` by layers that do not; results are equal in exact arithmetic."""

    feature: ClassVar[Feature]

    @abstractmethod
    def rewrite(self, layer: Layer, editor: Editor) -> bool:
        """Add the layers that replace ``layer`` and return True, or add nothing and return False."""
