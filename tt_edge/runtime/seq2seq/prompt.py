"""What the decoder of an encoder-decoder begins with, from the checkpoint's settings. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tt_edge.errors import BundleError, InvalidInputError

#: Stands for the language's token in the beginning of an answer, where the language is to be detected.
DETECT = -1


@dataclass(frozen=True)
class DecoderStart:
    """The first token ids of every answer, as ``generate()`` gives them to the decoder.

    For Whisper they say language and task: ``languages`` and ``tasks`` are token ids by name, ``no_timestamps`` ends the beginning.
    ``default`` may have ``DETECT`` in place of a language.
    """

    default: tuple[int, ...]
    languages: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, int] = field(default_factory=dict)
    no_timestamps: int | None = None
    first: int = 0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> DecoderStart:
        """From ``generation_config.json``. Raises ``BundleError`` if it names no first token, or has malformed settings."""
        first = next(
            (settings[name] for name in ("decoder_start_token_id", "bos_token_id") if _is_id(settings.get(name))), None
        )
        if first is None:
            raise BundleError(
                "generation_config.json has neither decoder_start_token_id nor bos_token_id, so the decoder has nothing to begin "
                "with; add one to the checkpoint's and compile again"
            )
        languages, tasks = (_ids(settings, name) for name in ("lang_to_id", "task_to_id"))
        languages = {name.removeprefix("<|").removesuffix("|>"): token for name, token in languages.items()}
        plain = settings.get("no_timestamps_token_id")
        start = cls((first,), languages, tasks, plain if _is_id(plain) else None, first)
        language, task = settings.get("language"), settings.get("task")
        default = (
            start.asked(language, task) if language or task else start._unasked(settings.get("forced_decoder_ids"))
        )
        return cls(default, languages, tasks, start.no_timestamps, first)

    def asked(self, language: str | None = None, task: str | None = None) -> tuple[int, ...]:
        """The beginning for a language, such as ``de``, and ``transcribe`` (the default) or ``translate``.

        Raises ``InvalidInputError`` for what the model does not know.
        """
        if language is None and task is None:
            return self.default
        if not self.languages:
            raise InvalidInputError("the model knows no languages and tasks; omit them")
        if language is not None and language not in self.languages:
            raise InvalidInputError(
                f"language {language!r} is unknown; choose one of {', '.join(sorted(self.languages))}"
            )
        task = task or "transcribe"
        if task not in self.tasks:
            raise InvalidInputError(f"task {task!r} is unknown; choose one of {', '.join(sorted(self.tasks))}")
        ids = [self.first, DETECT if language is None else self.languages[language], self.tasks[task]]
        return self._ended(ids)

    def _unasked(self, forced: Any) -> tuple[int, ...]:
        """The beginning where no language is given: ``forced_decoder_ids`` of older checkpoints, pairs of place and token id."""
        ids = [self.first]
        for place, pair in enumerate(forced if isinstance(forced, list) else (), 1):
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or pair[0] != place
                or not (pair[1] is None or _is_id(pair[1]))
            ):
                raise BundleError(
                    f"generation_config.json has forced_decoder_ids {forced!r}; mend it and compile again"
                )
            ids.append(DETECT if pair[1] is None else pair[1])
        if self.languages and len(ids) == 1:
            ids.append(DETECT)
        return self._ended(ids)

    def _ended(self, ids: list[int]) -> tuple[int, ...]:
        if self.no_timestamps is not None and ids[-1] != self.no_timestamps:
            ids = [*ids, self.no_timestamps]
        return tuple(ids)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _ids(settings: Mapping[str, Any], name: str) -> dict[str, int]:
    found = settings.get(name) or {}
    if not isinstance(found, Mapping) or not all(_is_id(token) for token in found.values()):
        raise BundleError(f"generation_config.json has {name} {found!r}; mend it and compile again")
    return dict(found)
