"""Stop strings in a stream; whole characters are in test_tokenizer.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tt_edge.runtime.text.detokenizer import Detokenizer, StopStrings

SHORT = st.text("ab", max_size=12)


@given(pieces=st.lists(SHORT), stop=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_any_pieces_give_the_text_before_the_first_stop_string(pieces, stop):
    """``found`` is the one that is complete first, as the pieces come; the text ends where it begins."""
    stream, shown = StopStrings(stop), ""
    for count, piece in enumerate(pieces, 1):
        shown += stream.push(piece)
        so_far = "".join(pieces[:count])
        assert so_far.startswith(shown)
        if stream.found is not None:
            break
        assert not any(s in so_far for s in stop)
    shown += stream.flush()
    text = "".join(pieces)
    if stream.found is None:
        assert shown == text
    else:
        assert text.startswith(shown + stream.found)
        assert not any(s in shown for s in stop)
        assert stream.push("a") == stream.flush() == ""


def test_what_cannot_become_a_stop_string_is_shown_at_once():
    stream = StopStrings(["\n\n", "END"])
    assert [stream.push(piece) for piece in ("one", "\n", "two E", "N", "D!")] == ["one", "", "\ntwo ", "", ""]
    assert stream.found == "END"


class Letters:
    """Token ids are code points."""

    def decode(self, token_ids):
        return "".join(chr(token) for token in token_ids if token < 1000)

    def special_tokens_in(self, strings):
        names = {1000: "<|end|>", 1001: "<|end|><|end|>", 1002: "<s>"}
        return {token: name for token, name in names.items() if any(name in string for string in strings)}


@pytest.mark.parametrize(("stop", "text"), [((), "abcd"), (("cd",), "ab"), (("x",), "abcd"), (("dx",), "abcd")])
def test_detokenizer(stop, text):
    stream = Detokenizer(Letters(), stop)
    assert "".join([*(stream.push(ord(c)) for c in "abcd"), stream.flush()]) == text
    assert stream.stopped_by == ("cd" if stop == ("cd",) else None)


@pytest.mark.parametrize(
    ("stop", "tokens", "text", "met"),
    [
        ("<|end|>", ["a", "b", 1000, "c"], "ab", "<|end|>"),
        ("b<|end|>", ["a", "b", 1000, "c"], "a", "b<|end|>"),
        ("<|end|>c", ["a", "b", 1000, "c"], "ab", "<|end|>c"),
        ("<|end|>d", ["a", 1000, "c"], "ac", None),
        ("<|end|><|end|>", ["a", 1000, 1000, "c"], "ac", None),  # two tokens are not the token of that name
        ("<|end|><|end|>", ["a", 1001, "c"], "a", "<|end|><|end|>"),
        ("<|end|>", [*"a<|end|>b"], "a", "<|end|>"),  # as plain text
        ("ac", ["a", 1000, "c"], "", "ac"),  # special tokens are no part of the text
        ("<s>", ["a", 1000, "b", 1002], "ab", "<s>"),
    ],
)
def test_stop_strings_that_are_special_tokens(stop, tokens, text, met):
    stream, shown = Detokenizer(Letters(), (stop, "never")), ""
    for token in tokens:
        shown += stream.push(ord(token) if isinstance(token, str) else token)
        if stream.stopped_by:
            break
    shown += stream.flush()
    assert (shown, stream.stopped_by) == (text, met)
