"""What a prompt says around frames."""

from __future__ import annotations

import pytest
from num2words import num2words

from tt_edge.runtime.multimodal.videos.frame_text import FrameText, in_words, moment


def test_numbers_in_words():
    for number in (*range(1200), 1999, 2000, 2001, 10_000, 12_345, 100_000, 999_999):
        assert in_words(number) == num2words(number)


@pytest.mark.parametrize(
    ("seconds", "clock", "exact"),
    [(0, "00:00", "0.0"), (59.96, "00:59", "60.0"), (61.5, "01:01", "61.5"), (3725, "62:05", "3725.0")],
)
def test_times(seconds, clock, exact):
    assert moment(seconds) == {"seconds": exact, "second": str(int(seconds)), "clock": clock}


def test_what_stands_around_frames():
    text = FrameText("{count} of {duration}: {clock}[", "]{past_seconds} {number} {second}[", "]{past_clock}.", "I")
    written = "two of 0:01:10: 00:01[II]1.5 2 61[I]01:01."
    assert text.has_times
    assert text.written([2, 1], "V", (1.5, 61.25), 70.9) == written
    assert text.written([2, 1], "V", (1.5, 61.25), None) == written.replace("0:01:10", "0:01:01")
    numbered = FrameText("{number}:", ", {number}:")
    assert not numbered.has_times
    assert numbered.written([1, 1, 1], "V", (), None) == "1:V, 2:V, 3:V"
