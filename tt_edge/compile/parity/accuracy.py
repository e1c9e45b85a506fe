"""The same questions as ``runtime.accuracy`` asks, answered by the model in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import exp

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from tt_edge.compile.parity.pytorch_vlm import cast, model_inputs
from tt_edge.runtime.benchmark.accuracy import MAX_ANSWER, Accuracy, Question
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.multimodal.images import ProcessedImage

_Row = tuple[list[int], list[ProcessedImage], Question]


@torch.inference_mode()
def measure_pytorch(model: PreTrainedModel, llm: LLM, questions: Sequence[Question], batch: int = 64) -> Accuracy:
    """``generate()``'s greedy answers, and the perplexity of the right ones.

    Tokenizer, template and the preprocessing of pictures are the bundle's. Only prompts of equal length share a batch,
    so nothing is padded.
    """
    rows = [(*_encoded(llm, question), question) for question in questions]
    right, losses = 0, []
    for group in _equally_long(rows, batch):
        ids = [prompt for prompt, _, _ in group]
        new = model.generate(
            **cast(model_inputs(model, ids, [image for _, images, _ in group for image in images]), model.dtype),
            max_new_tokens=MAX_ANSWER,
            do_sample=False,
            num_beams=1,
            eos_token_id=list(llm.tokenizer.eos_token_ids) or None,
            pad_token_id=0,
        )[:, len(ids[0]) :]
        for tokens, (_, _, question) in zip(new.tolist(), group, strict=True):
            right += llm.tokenizer.decode(_until_end(tokens, llm.tokenizer.eos_token_ids)) == question.answer
    for prompt, images, question in rows:
        answer = llm.tokenizer.encode(question.answer, add_special_tokens=False)
        losses.append(_answer_losses(model, prompt, images, answer))
    return Accuracy(right, len(questions), exp(torch.cat(losses).mean().item()))


def _equally_long(rows: Sequence[_Row], batch: int) -> Iterator[list[_Row]]:
    for _, group in groupby(sorted(rows, key=lambda row: len(row[0])), key=lambda row: len(row[0])):
        members = list(group)
        yield from (members[first : first + batch] for first in range(0, len(members), batch))


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    return tokens[: next((index for index, token in enumerate(tokens) if token in ends), len(tokens))]


def _answer_losses(
    model: PreTrainedModel, prompt: list[int], images: Sequence[ProcessedImage], answer: list[int]
) -> Tensor:
    inputs = cast(model_inputs(model, [prompt + answer], images), model.dtype)
    logits = model(**inputs, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return cross_entropy(logits, torch.tensor(answer), reduction="none")


def _encoded(llm: LLM, question: Question) -> tuple[list[int], list[ProcessedImage]]:
    prompt = question.prompt_of(llm)
    if llm.vision is None:
        return llm.tokenizer.encode(prompt.text, add_special_tokens=prompt.add_special_tokens), []
    special = prompt.add_special_tokens
    return llm.vision.processor.tokenize(llm.tokenizer, prompt.text, prompt.images, add_special_tokens=special)
