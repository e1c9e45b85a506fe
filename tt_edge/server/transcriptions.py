"""``/v1/audio/transcriptions`` and ``/v1/audio/translations``: a form with speech, and what is written down of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tt_edge.errors import MissingDependencyError
from tt_edge.runtime.audio import Audio, load_audio
from tt_edge.runtime.audio.extractors import SpeechFeatures
from tt_edge.runtime.seq2seq.source import Speech
from tt_edge.runtime.seq2seq.transcription import Segment, Transcript
from tt_edge.server.errors import ApiError
from tt_edge.server.parsing.forms import Form, parse_form

#: Seconds of speech of one request.
MAX_SECONDS = 1800

#: Forms of an answer; the last three have times.
FORMATS = ("json", "text", "verbose_json", "srt", "vtt")

#: Fields that are not implemented, with the values that ask for nothing.
_INERT = {
    "stream": ("false",),
    "chunking_strategy": ("auto",),
    "timestamp_granularities[]": ("segment",),
    "timestamp_granularities": ("segment",),
}
_FIELDS = ("model", "language", "prompt", "response_format", "temperature")


@dataclass(frozen=True, eq=False)
class Transcription:
    """A request: ``speech``, without its samples, but with its ``features`` and its length in seconds."""

    model: str
    features: np.ndarray
    seconds: float
    speech: Speech
    response_format: str
    temperature: float

    @property
    def timestamps(self) -> bool | None:
        """Whether the answer needs times; ``None``: only if the speech is longer than the model takes at once."""
        return True if self.response_format in FORMATS[2:] else None


def read_transcription(content: bytes, *, content_type: str, extractor: SpeechFeatures, task: str) -> Transcription:
    """The request that a form makes, its sound decoded. Raises ``ApiError`` and ``InvalidInputError`` for what is wrong in it."""
    form = parse_form(content, content_type)
    fields = _known(form, task)
    if list(form.files) != ["file"]:
        found = ", ".join(sorted(form.files)) or "none"
        raise ApiError(
            400, f"the form needs one file of speech named file, and its files are {found[:200]}", param="file"
        )
    response_format = fields.get("response_format", "json")
    if response_format not in FORMATS:
        raise ApiError(
            400,
            f"response_format {response_format[:80]!r} is not supported; choose one of {', '.join(FORMATS)}",
            param="response_format",
        )
    try:
        audio = load_audio(form.files["file"], max_seconds=MAX_SECONDS)
    except MissingDependencyError:
        raise ApiError(
            415, "the file is no WAV file of integers, and this server reads no other; send one", param="file"
        ) from None
    return Transcription(
        fields["model"],
        extractor.all_features(audio),
        audio.seconds,
        Speech(
            Audio(audio.samples[:0].copy(), audio.rate),
            fields.get("language") or None,
            task,
            fields.get("prompt", ""),
        ),
        response_format,
        _temperature(fields.get("temperature", "0")),
    )


def _known(form: Form, task: str) -> dict[str, str]:
    """Fields by name. Raises ``ApiError`` for one that is unknown, or comes twice, and without a model."""
    found: dict[str, str] = {}
    for name, values in form.fields.items():
        known = name in _FIELDS and (name != "language" or task == "transcribe")
        for value in values:
            if not known and value not in _INERT.get(name, ()):
                such = f" with the value {value[:80]!r}" if name in _INERT else ""
                raise ApiError(400, f"{name[:80]} is not supported{such}; omit it", param=name[:80])
        if known and len(values) > 1:
            raise ApiError(400, f"{name} is there {len(values)} times; send it once", param=name)
        if known:
            found[name] = values[0]
    if not found.get("model"):
        raise ApiError(400, "model: Field required", param="model")
    return found


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ApiError(400, f"temperature is {text[:80]!r}; it must be a number from 0 to 1", param="temperature")
    return value


def response_of(asked: Transcription, found: Transcript) -> Response:
    """The answer in the form that is asked for."""
    kind, text = asked.response_format, found.text.strip()
    usage = {"type": "duration", "seconds": math.ceil(found.duration)}
    if kind == "json":
        return JSONResponse({"text": text, "usage": usage})
    if kind == "verbose_json":
        return JSONResponse(
            {
                "task": asked.speech.task,
                "language": found.language,
                "duration": found.duration,
                "text": text,
                "segments": [_segment(place, each, asked) for place, each in enumerate(found.segments)],
                "usage": usage,
            }
        )
    if kind == "text":
        return PlainTextResponse(text + "\n")
    point, head = (",", "") if kind == "srt" else (".", "WEBVTT\n\n")
    cues = [
        (f"{place}\n" if kind == "srt" else "")
        + f"{_clock(each.start, point)} --> {_clock(each.end, point)}\n{_one_line(each.text)}\n\n"
        for place, each in enumerate((each for each in found.segments if each.text.strip()), 1)
    ]
    return PlainTextResponse(head + "".join(cues), media_type="text/vtt" if kind == "vtt" else "text/plain")


def _segment(place: int, segment: Segment, asked: Transcription) -> dict[str, Any]:
    """OpenAI's fields; ``no_speech_prob`` is not computed."""
    return {
        "id": place,
        "seek": segment.seek,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": segment.token_ids,
        "temperature": asked.temperature,
        "avg_logprob": segment.logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": None,
    }


def _clock(seconds: float, point: str) -> str:
    """Such as ``00:01:02,345``."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _one_line(text: str) -> str:
    """A subtitle: an empty line would end it, and an arrow begin another."""
    return " ".join(text.split()).replace("-->", "->")
