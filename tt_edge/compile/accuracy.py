"""The same questions as ``runtime.accuracy`` asks, answered by the model in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import exp

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from tt_edge.runtime.accuracy import MAX_ANSWER, Accuracy, Question
from tt_edge.runtime.llm import LLM

_Row = tuple[list[int], Question]


@torch.inference_mode()
def measure_pytorch(model: PreTrainedModel, llm: LLM, questions: Sequence[Question], batch: int = 64) -> Accuracy:
    """``generate()``'s greedy answers, and the perplexity of the right ones; tokenizer and template are the bundle's.

    Only prompts of equal length share a batch, so nothing is padded.
    """
    rows = [
        (llm.tokenizer.encode(question.prompt_of(llm), add_special_tokens=not question.messages), question)
        for question in questions
    ]
    right, losses = 0, []
    for group in _equally_long(rows, batch):
        ids = torch.tensor([prompt for prompt, _ in group])
        new = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MAX_ANSWER,
            do_sample=False,
            num_beams=1,
            eos_token_id=list(llm.tokenizer.eos_token_ids) or None,
            pad_token_id=0,
        )[:, ids.shape[1] :]
        for tokens, (_, question) in zip(new.tolist(), group, strict=True):
            right += llm.tokenizer.decode(_until_end(tokens, llm.tokenizer.eos_token_ids)) == question.answer
    for prompt, question in rows:
        losses.append(_answer_losses(model, prompt, llm.tokenizer.encode(question.answer, add_special_tokens=False)))
    return Accuracy(right, len(questions), exp(torch.cat(losses).mean().item()))


def _equally_long(rows: Sequence[_Row], batch: int) -> Iterator[list[_Row]]:
    for _, group in groupby(sorted(rows, key=lambda row: len(row[0])), key=lambda row: len(row[0])):
        members = list(group)
        yield from (members[first : first + batch] for first in range(0, len(members), batch))


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    return tokens[: next((index for index, token in enumerate(tokens) if token in ends), len(tokens))]


def _answer_losses(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> Tensor:
    ids = torch.tensor([prompt + answer])
    logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return cross_entropy(logits, torch.tensor(answer), reduction="none")
