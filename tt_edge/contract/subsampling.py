"""How many places an encoder makes of features or samples of speech. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Subsampling:
    """``n`` frames of features, or samples, become ``(n + offset) // stride`` places.

    That is what any chain of convolutions with strides does, because ``((n + a) // b + c) // d`` is ``(n + a + b * c) // (b * d)``.
    """

    stride: int
    offset: int

    def __post_init__(self) -> None:
        for name in ("stride", "offset"):
            if not isinstance(value := getattr(self, name), int) or isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}")
        if not 1 <= self.stride <= 1 << 20 or abs(self.offset) > 1 << 24:
            raise ValueError(f"subsampling has stride {self.stride} and offset {self.offset}")

    @property
    def least(self) -> int:
        """The fewest frames or samples that an encoder takes: its network is traced for two places or more."""
        return self.fewest(2)

    def places(self, length: int) -> int:
        """Places of a source of ``length`` frames or samples; 0 where it is too short."""
        return max(0, (length + self.offset) // self.stride)

    def fewest(self, places: int) -> int:
        """The fewest frames or samples that make ``places``."""
        return max(1, places * self.stride - self.offset)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Subsampling:
        """Raises ``KeyError`` or ``ValueError`` for other data."""
        return cls(data["stride"], data["offset"])
