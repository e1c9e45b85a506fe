"""Which slots run together, and how wide: a step of the network has no more padding than is worth it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tt_edge.runtime.scheduling.slots import Slot

#: Tokens of a prompt in one step, while other slots decode. docs/explanation/serving.md has what other numbers would give.
PREFILL_TOKENS = 448
#: Tokens of padding in a step that cost less than one more step would: reading the weights takes as long as many tokens.
WORTH_PADDING = 32


class Run(NamedTuple):
    """A step of the network: up to ``width`` pending tokens of each of ``slots``, which are in order of their index."""

    slots: Sequence[Slot]
    width: int


def decode_run(busy: Sequence[Slot]) -> Run | None:
    """All slots that take one token. Slots between them that do not are padding, of one token each."""
    slots = [slot for slot in busy if len(slot.step) == 1]
    return Run(slots, 1) if slots else None


def prefill_run(busy: Sequence[Slot], max_input_len: int, prefill_tokens: int) -> Run | None:
    """A piece of the prompt that has waited the longest, and of its neighbours' where that takes little padding.

    While no slot decodes, nobody waits for the end of the step but other prompts, and the piece may have ``max_input_len``
    tokens; otherwise ``prefill_tokens``. Blocks of tokens that see each other are not split: a longer one makes it wider.
    """
    prefilling = {slot.index: slot for slot in busy if len(slot.step) > 1}
    if not prefilling:
        return None
    budget = min(max_input_len, prefill_tokens) if len(prefilling) < len(busy) else max_input_len
    head = min(prefilling.values(), key=lambda slot: slot.fed_at)
    width = head.least(min(len(head.step), budget))
    first = last = head.index
    padding = 0
    for step in (1, -1):
        while (slot := prefilling.get(last + 1 if step > 0 else first - 1)) is not None:
            more = max(width - len(slot.step), 0)
            if padding + more > WORTH_PADDING or (last - first + 2) * width > budget:
                break
            padding += more
            first, last = min(first, slot.index), max(last, slot.index)
    return Run([prefilling[index] for index in range(first, last + 1)], width)
