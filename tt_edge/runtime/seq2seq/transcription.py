"""Writing speech down, with times and of any length, as Whisper's ``generate()`` does. Torch-free.

Speech longer than a window of the encoder is written down window by window. Each window begins at the last time that the answer
to the one before names, so no word is cut; only an answer with timestamps says where that is.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.text.completion import Completion, EncodedPrompt

if TYPE_CHECKING:
    from tt_edge.runtime.seq2seq.prompts import SourcePrompts
    from tt_edge.runtime.seq2seq.source import Speech
    from tt_edge.runtime.text.tokenizer import BundleTokenizer

#: Seconds between two timestamps, which are as far apart as two places of the encoder: two frames of features.
PRECISION_S, _FRAMES = 0.02, 2


@dataclass(frozen=True)
class Segment:
    """A piece of speech from ``start`` to ``end`` in seconds; ``seek`` is the frame where its window begins.

    ``token_ids`` include timestamps, ``text`` does not. ``logprob`` is the mean of its window's tokens, if they were asked for.
    """

    start: float
    end: float
    text: str
    token_ids: list[int]
    seek: int = 0
    logprob: float | None = None

    @property
    def compression_ratio(self) -> float:
        """Bytes of the text over those that zlib needs: high for a text that repeats itself."""
        content = self.text.encode()
        return len(content) / len(zlib.compress(content))


@dataclass
class Transcript:
    """Speech written down. ``language`` is its English name, ``duration`` in seconds; ``prompt_tokens`` and ``new_tokens`` are
    counts over all windows, and ``is_cut`` says that an answer ended at its limit of tokens."""

    language: str
    duration: float
    segments: list[Segment] = field(default_factory=list)
    prompt_tokens: int = 0
    new_tokens: int = 0
    is_cut: bool = False

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)

    @property
    def token_ids(self) -> list[int]:
        return [token for segment in self.segments for token in segment.token_ids]

    def add(
        self, start: Sequence[int], completion: Completion, config: GenerationConfig
    ) -> tuple[list[int], float | None]:
        """Count an answer that begins with ``start``; its tokens without the end, and the mean of their log-probabilities."""
        self.prompt_tokens += len(start)
        self.new_tokens += len(completion.new_token_ids)
        self.is_cut |= completion.finish_reason == "length"
        tokens = [token for token in completion.new_token_ids if token not in config.eos_token_ids]
        logprobs = [token.logprob for token in completion.tokens if token.logprob is not None]
        return tokens, sum(logprobs) / len(logprobs) if logprobs else None


#: Asks for answers one after the other; returns what they make.
Windows: TypeAlias = Generator[tuple[EncodedPrompt, GenerationConfig], Completion, Transcript]


def windows(
    prompts: SourcePrompts,
    features: np.ndarray,
    seconds: float,
    speech: Speech,
    config: GenerationConfig,
    *,
    timestamps: bool | None,
    cache_salt: str = "",
) -> Windows:
    """Write down log-mel ``features`` ``[mels, n]`` of ``speech`` of that length: yields prompts and wants their completions.

    Without ``timestamps``, all must fit one window; ``None``: they are used where it does not. An encoder of speech of any length
    has one answer to all of it, without timestamps. ``config`` is that of each window's answer. Raises ``InvalidInputError`` for
    speech that is too long, and for what the model does not have.
    """
    pipeline = prompts.pipeline
    frames = pipeline.window
    if frames is None:
        return (yield from _at_once(prompts, features, seconds, speech, config, bool(timestamps), cache_salt))
    total = features.shape[1]
    timed = total > frames if timestamps is None else timestamps
    if total > frames and not timed:
        raise InvalidInputError(
            f"the speech is {seconds:.1f} s long, and the model takes {frames / 100:g} s; ask for timestamps, or cut "
            "it into shorter pieces"
        )
    start: Sequence[int] = prompts.start_of(speech, timestamps=timed)
    known = pipeline.start
    if timed:
        config = dataclasses.replace(
            config, no_timestamps_token_id=known.no_timestamps, max_initial_timestamp_index=known.most_initial
        )
    found = Transcript("", seconds)
    seek = 0
    while seek < total:
        size = min(frames, total - seek)
        window = np.zeros((len(features), frames), np.float32)
        window[:, :size] = features[:, seek : seek + size]
        prompt = prompts.window(window, start, cache_salt)
        start = prompt.ids  # the language is that of the first window
        completion = yield prompt, config
        found.language = known.language_of(list(start))
        tokens, logprob = found.add(start, completion, config)
        first = None if known.no_timestamps is None else known.no_timestamps + 1
        pieces, step = split(tokens, first, size)
        for begin, end, ids in pieces:
            found.segments.append(
                Segment(
                    seek / 100 + begin * PRECISION_S,
                    seek / 100 + end * PRECISION_S,
                    text_of(prompts.tokenizer, ids, first),
                    ids,
                    seek,
                    logprob,
                )
            )
        seek += step or size  # an answer that names its own beginning would not go on
    return found


def _at_once(
    prompts: SourcePrompts,
    features: np.ndarray,
    seconds: float,
    speech: Speech,
    config: GenerationConfig,
    timestamps: bool,
    cache_salt: str,
) -> Windows:
    """Write down speech of any length in one answer, which has no times."""
    if timestamps:
        raise InvalidInputError("the model writes down speech of any length at once, without timestamps; omit them")
    prompt = prompts.window(features, prompts.start_of(speech), cache_salt)
    completion = yield prompt, config
    known = prompts.pipeline.start
    found = Transcript(known.language_of(list(prompt.ids)) if known.languages else "", seconds)
    tokens, logprob = found.add(prompt.ids, completion, config)
    found.segments.append(Segment(0.0, seconds, prompts.tokenizer.decode(tokens), tokens, logprob=logprob))
    return found


def answered(asked: Windows, answer: Callable[[EncodedPrompt, GenerationConfig], Completion]) -> Transcript:
    """Run ``asked`` to its end; ``answer`` gives the completion of each prompt."""
    try:
        prompt, config = next(asked)
        while True:
            prompt, config = asked.send(answer(prompt, config))
    except StopIteration as end:
        found: Transcript = end.value
        return found


def split(tokens: list[int], first: int | None, frames: int) -> tuple[list[tuple[float, float, list[int]]], int]:
    """The segments of a window's answer, and how many frames farther the next window begins.

    A segment is its beginning and end in steps of ``PRECISION_S``, and its tokens; ``first`` is the timestamp of 0 s, ``None`` for
    an answer without timestamps, and ``frames`` are those of the window that are speech. Two timestamps in a row end a segment.
    What comes after the last such pair is dropped, for the next window, unless a single timestamp ends the answer.
    """
    is_time = [first is not None and token >= first for token in tokens]
    assert first is not None or not any(is_time)
    cuts = [i + 1 for i in range(len(tokens) - 1) if is_time[i] and is_time[i + 1]]
    single = is_time[-2:] == [False, True]
    zero = first or 0
    if not cuts:
        last = next((token for token, timed in zip(reversed(tokens), reversed(is_time), strict=True) if timed), None)
        end = frames // _FRAMES if last in (None, zero) else last - zero  # type: ignore[operator]
        return [(0.0, float(end), tokens)], frames
    if single:
        cuts.append(len(tokens))
    else:
        cuts[-1] += 1  # the pair stays together: the last segment is whole
    found, begin = [], 0
    for index, cut in enumerate(cuts):
        piece = tokens[begin:cut]
        ends = piece[-1] if index < len(cuts) - 1 or single else piece[-2]
        found.append((float(piece[0] - zero), float(ends - zero), piece))
        begin = cut
    return found, frames if single else (tokens[begin - 2] - zero) * _FRAMES


def text_of(tokenizer: BundleTokenizer, tokens: Sequence[int], first: int | None) -> str:
    """The text of an answer's tokens, without timestamps."""
    return tokenizer.decode([token for token in tokens if first is None or token < first])
