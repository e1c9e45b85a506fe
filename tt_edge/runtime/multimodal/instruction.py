"""The instruction that a vision network reads beside an image: the text of the prompt, in tokens of a tokenizer of its own.

InstructBLIP's Q-Former reads it, so that the features of an image depend on what is asked. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.text.tokenizer import BundleTokenizer, Files


@dataclass(frozen=True)
class _Folder:
    """The files of the folder ``name`` among ``files``, by their names in it."""

    files: Files
    name: str

    def has(self, name: str) -> bool:
        return self.files.has(f"{self.name}/{name}")

    def read_bytes(self, name: str) -> bytes:
        return self.files.read_bytes(f"{self.name}/{name}")


@dataclass(frozen=True, eq=False)
class InstructionReader:
    """``tokenizer`` makes token ids of a prompt's text, ``most`` at the most. ``empty`` are those of no text.

    A copy in another process, which only preprocesses images, has no tokenizer.
    """

    tokenizer: BundleTokenizer | None
    most: int
    empty: tuple[int, ...]

    @classmethod
    def from_files(cls, files: Files, folder: str, most: int) -> InstructionReader:
        """The tokenizer is in ``folder`` among ``files``. Raises ``BundleError`` where it is missing or unreadable."""
        tokenizer = BundleTokenizer.from_bundle(_Folder(files, folder))
        return cls(tokenizer, most, tuple(tokenizer.encode("")) or (0,))

    def read(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Token ids of a prompt's text. Raises ``InvalidInputError`` for a text without any, and for one with too many."""
        assert self.tokenizer is not None
        ids = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        if not ids:
            raise InvalidInputError(
                "this model reads the text of a prompt with its image, and there is none; ask something"
            )
        if len(ids) > self.most:
            raise InvalidInputError(
                f"the prompt has {len(ids)} tokens of the tokenizer that is for its image, which takes {self.most}; shorten the "
                "text"
            )
        return tuple(ids)

    def close(self) -> None:
        """End the process of a tokenizer that has one."""
        if self.tokenizer is not None:
            self.tokenizer.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (None, self.most, self.empty)
