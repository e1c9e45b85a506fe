"""Features of newer Python versions for Python 3.10, which JetPack 6.2's TensorRT needs. Torch-free."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from enum import StrEnum
    from typing import Self
else:
    from enum import Enum
    from typing import TypeVar

    Self = TypeVar("Self")

    class StrEnum(str, Enum):
        """Members are equal to their values, also when printed."""

        __str__ = str.__str__
        __format__ = str.__format__


__all__ = ["Self", "StrEnum"]
