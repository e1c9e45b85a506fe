"""What answers begin with."""

from __future__ import annotations

import pytest

from tt_edge.errors import BundleError, InvalidInputError
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
    assert start.asked("en") == (50, 51, 60, 70)
    assert start.asked(task="transcribe") == (50, DETECT, 60, 70)
    with pytest.raises(InvalidInputError, match="language 'xx' is unknown; choose one of de, en"):
        start.asked("xx")
    with pytest.raises(InvalidInputError, match="task 'sing' is unknown; choose one of transcribe, translate"):
        start.asked("de", "sing")
    with pytest.raises(InvalidInputError, match="the model knows no languages and tasks"):
        DecoderStart((2,)).asked("de")


@pytest.mark.parametrize(
    "settings",
    [{}, {"bos_token_id": True}, {**WHISPER, "lang_to_id": [1]}, {**WHISPER, "forced_decoder_ids": [[2, 60]]}],
)
def test_malformed(settings):
    with pytest.raises(BundleError, match=r"generation_config\.json has"):
        DecoderStart.from_settings(settings)
