"""What answers begin with."""

from __future__ import annotations

import pytest

from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.audio.languages import CODES, NAMES
from tt_edge.runtime.seq2seq.prompt import DETECT, DecoderStart

WHISPER = {
    "decoder_start_token_id": 50, "lang_to_id": {"<|en|>": 51, "<|de|>": 52}, "task_to_id": {"transcribe": 60, "translate": 61},
    "no_timestamps_token_id": 70,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"decoder_start_token_id": 2}, (2,)),
        ({"bos_token_id": 3}, (3,)),
        ({"decoder_start_token_id": 50, "no_timestamps_token_id": 70}, (50, 70)),
        (WHISPER, (50, DETECT, 70)),
        ({**WHISPER, "language": "de"}, (50, 52, 60, 70)),
        ({**WHISPER, "task": "translate"}, (50, DETECT, 61, 70)),
        ({**WHISPER, "forced_decoder_ids": [[1, None], [2, 60]]}, (50, DETECT, 60, 70)),
        ({**WHISPER, "forced_decoder_ids": [[1, 51], [2, 61], [3, 70]]}, (50, 51, 61, 70)),
    ],
)
def test_default(settings, wanted):
    assert DecoderStart.from_settings(settings).default == wanted


def test_language_and_task():
    start = DecoderStart.from_settings(WHISPER)
    assert start.asked("de", "translate") == (50, 52, 61, 70)
    assert start.asked("en") == start.asked("English") == start.asked("<|en|>") == (50, 51, 60, 70)
    assert start.asked(task="transcribe") == (50, DETECT, 60, 70)
    assert start.language_of(start.asked("de")) == "german"
    with pytest.raises(InvalidInputError, match="language 'xx' is unknown; choose one of de, en"):
        start.asked("xx")
    with pytest.raises(InvalidInputError, match="task 'sing' is unknown; choose one of transcribe, translate"):
        start.asked("de", "sing")
    asked_by_checkpoint = DecoderStart.from_settings({**WHISPER, "language": "german"})
    assert asked_by_checkpoint.asked(task="translate") == (50, 52, 61, 70)


def test_words_that_an_answer_begins_with():
    """In place of the first token, or behind it (BLIP)."""
    assert DecoderStart(2).before([7, 8]) == (7, 8)
    assert DecoderStart(2, follows=True).before([7, 8]) == (2, 7, 8)
    assert DecoderStart(2).before([]) == DecoderStart(2, follows=True).before([]) == (2,)


def test_timestamps():
    start = DecoderStart.from_settings(WHISPER)
    assert start.asked("de", timestamps=True) == (50, 52, 60)
    old = DecoderStart.from_settings({**WHISPER, "forced_decoder_ids": [[1, 51], [2, 61], [3, 70]]})
    assert old.asked(timestamps=True) == (50, 51, 61)
    with pytest.raises(InvalidInputError, match="the model has no timestamps"):
        DecoderStart(2).asked(timestamps=True)


def test_english_only():
    start = DecoderStart.from_settings(
        {"decoder_start_token_id": 50, "no_timestamps_token_id": 70, "forced_decoder_ids": [[1, 70]]}
    )
    assert start.default == start.asked("en") == start.asked("English", "transcribe") == (50, 70)
    assert start.asked(timestamps=True) == (50,)
    assert start.language_of(start.default) == "english"
    with pytest.raises(InvalidInputError, match="language is 'de', and the model knows English only"):
        start.asked("de")
    with pytest.raises(InvalidInputError, match="task is 'translate', and the model knows transcribe only"):
        start.asked(task="translate")


def test_languages_are_those_of_transformers():
    tokenization = pytest.importorskip("transformers.models.whisper.tokenization_whisper")
    assert CODES == tokenization.TO_LANGUAGE_CODE
    assert NAMES == tokenization.LANGUAGES


@pytest.mark.parametrize(
    "settings",
    [{}, {"bos_token_id": True}, {**WHISPER, "lang_to_id": [1]}, {**WHISPER, "forced_decoder_ids": [[2, 60]]}],
)
def test_malformed(settings):
    with pytest.raises(BundleError, match=r"generation_config\.json has"):
        DecoderStart.from_settings(settings)
