"""What the decoder of an encoder-decoder begins with, from the checkpoint's settings. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.audio.languages import CODES, NAMES

#: The setting of ``generation_config.json`` that says that a prompt follows the first token of an answer, and does not replace it.
PROMPT_FOLLOWS = "prompt_follows_start"
#: Stands for the language's token in the beginning of an answer, where the language is to be detected.
DETECT = -1


@dataclass(frozen=True)
class DecoderStart:
    """The first token ids of every answer, as ``generate()`` gives them to the decoder.

    For Whisper they say language and task: ``languages`` are token ids by code, ``tasks`` by name, and ``no_timestamps`` ends the
    beginning of an answer without timestamps. ``language``, ``task`` and ``forced`` (of older checkpoints: the ids after the first
    one, with ``DETECT`` in place of a language) are what the checkpoint asks for where the caller does not. ``previous`` begins the
    text that a caller gives for context; ``most_initial`` is the largest timestamp that an answer may begin with. ``follows``: what
    a caller lets an answer begin with comes behind ``first``, not in its place (BLIP).
    """

    first: int
    languages: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, int] = field(default_factory=dict)
    no_timestamps: int | None = None
    language: str | None = None
    task: str | None = None
    forced: tuple[int, ...] = ()
    previous: int | None = None
    most_initial: int | None = None
    follows: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> DecoderStart:
        """From ``generation_config.json``. Raises ``BundleError`` if it names no first token, or has malformed settings."""
        given = ((name, settings.get(name)) for name in ("decoder_start_token_id", "bos_token_id"))
        name, first = next(((name, value) for name, value in given if value is not None), ("", None))
        if first is None:
            raise BundleError(
                "generation_config.json has neither decoder_start_token_id nor bos_token_id, so the decoder has nothing to begin "
                "with; add one to the checkpoint's and compile again"
            )
        if not _is_id(first):
            raise _malformed(name, first)
        languages, tasks = (_ids(settings, name) for name in ("lang_to_id", "task_to_id"))
        ids: dict[str, int | None] = {}
        for name in ("no_timestamps_token_id", "prev_sot_token_id", "max_initial_timestamp_index"):
            ids[name] = settings.get(name)
            if ids[name] is not None and not _is_id(ids[name]):
                raise _malformed(name, ids[name])
        start = cls(
            first,
            {name.removeprefix("<|").removesuffix("|>"): token for name, token in languages.items()},
            tasks,
            ids["no_timestamps_token_id"],
            settings.get("language"),
            settings.get("task"),
            _forced(settings.get("forced_decoder_ids")),
            ids["prev_sot_token_id"],
            ids["max_initial_timestamp_index"],
            settings.get(PROMPT_FOLLOWS) is True,
        )
        start.asked()  # raises for a language that the model does not have
        return start

    @property
    def default(self) -> tuple[int, ...]:
        """The beginning where the caller asks for nothing."""
        return self.asked()

    def asked(
        self, language: str | None = None, task: str | None = None, *, timestamps: bool = False
    ) -> tuple[int, ...]:
        """The beginning for a language, such as ``de`` or ``german``, and ``transcribe`` (the default) or ``translate``.

        Raises ``InvalidInputError`` for what the model does not know.
        """
        if timestamps and self.no_timestamps is None:
            raise InvalidInputError("the model has no timestamps; omit them")
        if not self.languages:
            self._check_english(language, task)
            language = task = None
        else:
            language, task = language or self.language, task or self.task
        ids = [self.first]
        if language is None and task is None:
            ids += self.forced or ([DETECT] if self.languages else [])
        else:
            task = task or "transcribe"
            if task not in self.tasks:
                raise InvalidInputError(f"task {task!r:.80} is unknown; choose one of {', '.join(sorted(self.tasks))}")
            ids += [DETECT if language is None else self.languages[self.code_of(language)], self.tasks[task]]
        if timestamps and ids[-1] == self.no_timestamps:
            ids.pop()
        elif not timestamps and self.no_timestamps is not None and ids[-1] != self.no_timestamps:
            ids.append(self.no_timestamps)
        return tuple(ids)

    def before(self, words: Sequence[int]) -> tuple[int, ...]:
        """The beginning where the caller gives the first ``words`` of the answer, as token ids; the default one without any."""
        if not words:
            return self.default
        return (self.first, *words) if self.follows else tuple(words)

    def code_of(self, language: str) -> str:
        """The code of a language that is given by code or by its English name.

        Raises ``InvalidInputError`` for one that the model does not know.
        """
        name = language.lower().removeprefix("<|").removesuffix("|>") if isinstance(language, str) else ""
        code = name if name in self.languages else CODES.get(name, name)
        if code not in self.languages:
            known = ", ".join(sorted(self.languages))
            raise InvalidInputError(f"language {language!r:.80} is unknown; choose one of {known}, or its English name")
        return code

    def language_of(self, start: tuple[int, ...] | list[int]) -> str:
        """The English name of the language that the beginning ``start`` of an answer says; English where it says none."""
        code = next((code for code, token in self.languages.items() if token in start), "en")
        return NAMES.get(code, code)

    def _check_english(self, language: str | None, task: str | None) -> None:
        """A model without languages writes down English, or is no speech model."""
        if language is not None and CODES.get(str(language).lower(), str(language).lower()) != "en":
            raise InvalidInputError(f"language is {language!r}, and the model knows English only; omit it")
        if task not in (None, "transcribe"):
            raise InvalidInputError(f"task is {task!r}, and the model knows transcribe only; omit it")


def _forced(pairs: Any) -> tuple[int, ...]:
    """Token ids of ``forced_decoder_ids``, pairs of place and token id; ``DETECT`` for a language that is left open."""
    ids: list[int] = []
    if not isinstance(pairs, list | tuple | None):
        raise _malformed("forced_decoder_ids", pairs)
    for place, pair in enumerate(pairs or (), 1):
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] != place or not (pair[1] is None or _is_id(pair[1])):
            raise _malformed("forced_decoder_ids", pairs)
        ids.append(DETECT if pair[1] is None else pair[1])
    return tuple(ids)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _ids(settings: Mapping[str, Any], name: str) -> dict[str, int]:
    found = {} if settings.get(name) is None else settings[name]
    if not isinstance(found, Mapping) or not all(_is_id(token) for token in found.values()):
        raise _malformed(name, found)
    return dict(found)


def _malformed(name: str, value: Any) -> BundleError:
    return BundleError(f"generation_config.json has {name} {value!r:.80}; mend it and compile again")
