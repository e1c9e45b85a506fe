"""How a processor puts an image before a text, found from the ids and the mask that it makes."""

from __future__ import annotations

from tt_edge.compile.vision.processing.fit_leading import fit_leading
from tt_edge.runtime.multimodal.leading import LeadingImage


def encode(text):
    return [100 + ord(letter) for letter in text]


def like_kosmos(text):
    """A token that begins texts, one before and one behind three numbered places, and the text behind a space."""
    return [0, 7, 4, 5, 6, 8, *encode(f" {text.strip()}")], [0, 0, 1, 1, 1, 0, *[0] * len(text)]


def test_the_rule_is_found():
    found = fit_leading(like_kosmos, encode)
    assert found is not None
    assert (found.before, found.image) == ((0, 7), (4, 5, 6))
    for text in ("who? ", " me"):
        assert found.ids + encode(found.text(text)) == like_kosmos(text)[0]
    assert found.places(8).tolist() == [False, False, True, True, True, False, False, False]


def test_no_rule():
    def shouted(text):
        ids, mask = like_kosmos(text.upper())
        return ids, mask

    def apart(text):
        ids, mask = like_kosmos(text)
        return ids, [1, 0, *mask[2:]]

    def at_the_end(text):
        return [*encode(text), 4], [*[0] * len(text), 1]

    assert [fit_leading(make, encode) for make in (shouted, apart, at_the_end)] == [None] * 3
    assert fit_leading(lambda text: (encode(text), []), encode) is None


def test_what_is_written_is_read():
    found = LeadingImage((0, 7), (4, 5), (8,), " ", True)
    assert (
        LeadingImage.from_dict({"before": [0, 7], "image": [4, 5], "behind": [8], "start": " ", "strips": True})
        == found
    )
