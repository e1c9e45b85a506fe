"""An image in front of a text, in token ids, for models that know its tokens by their places (Kosmos-2). Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Token ids are lower.
_MOST_ID = 1 << 31


@dataclass(frozen=True)
class LeadingImage:
    """A prompt is ``before``, the ids of ``image``, one for each row of features, ``behind``, and the text.

    Ids of ``image`` may be those of words, too. ``start`` is put before the text, and spaces around it are removed where it
    ``strips``.
    """

    before: tuple[int, ...]
    image: tuple[int, ...]
    behind: tuple[int, ...]
    start: str = ""
    strips: bool = False

    @property
    def ids(self) -> list[int]:
        """All that stands before the text."""
        return [*self.before, *self.image, *self.behind]

    def text(self, prompt: str) -> str:
        """What is tokenized of ``prompt``, without special tokens."""
        return self.start + (prompt.strip() if self.strips else prompt)

    def places(self, length: int) -> NDArray[np.bool_]:
        """Which of the ``length`` tokens of a prompt are an image's."""
        places = np.arange(length) - len(self.before)
        found: NDArray[np.bool_] = (places >= 0) & (places < len(self.image))
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LeadingImage:
        """Rebuild from JSON. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for a wrong field."""
        before, image, behind = (tuple(data[name]) for name in ("before", "image", "behind"))
        ids = before + image + behind
        if not image or any(type(each) is not int or not 0 <= each < _MOST_ID for each in ids):
            raise ValueError(f"leading has the ids {ids!r:.80}")
        if not isinstance(data["start"], str) or type(data["strips"]) is not bool:
            raise ValueError(f"leading is {data!r}")
        return cls(before, image, behind, data["start"], data["strips"])
