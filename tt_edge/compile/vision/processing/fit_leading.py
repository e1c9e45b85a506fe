"""From what a processor makes of prompts to the ids by which it puts an image before a text, in places that a mask names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from tt_edge.runtime.multimodal.leading import LeadingImage

#: Prompts that a rule must write.
TEXTS = ("What?", "A red one or a BLUE one?", " so, ", "(1)")


def fit_leading(
    make: Callable[[str], tuple[Sequence[int], Sequence[int]]], encode: Callable[[str], Sequence[int]]
) -> LeadingImage | None:
    """``make`` gives the ids of a prompt with an image, and a mask that is 1 where they are the image's; ``encode`` those of a text
    without special tokens. ``None`` where no rule that tt-edge has writes them all."""
    made = [make(text) for text in TEXTS]
    ids = [list(each) for each, _ in made]
    places = [[place for place, is_image in enumerate(mask) if is_image == 1] for _, mask in made]
    first, last = (places[0][0], places[0][-1]) if places[0] else (0, -1)
    if places != [list(range(first, last + 1))] * len(made) or not places[0]:
        return None
    common = next((place for place, each in enumerate(zip(*ids, strict=False)) if len(set(each)) > 1), last + 1)
    for end, strips, start in product(range(last + 1, common + 1), (False, True), ("", " ")):
        prefix = ids[0][:end]
        found = LeadingImage(
            tuple(prefix[:first]), tuple(prefix[first : last + 1]), tuple(prefix[last + 1 :]), start, strips
        )
        if all(found.ids + list(encode(found.text(text))) == want for text, want in zip(TEXTS, ids, strict=True)):
            return found
    return None
