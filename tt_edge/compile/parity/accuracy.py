"""The accuracy benchmark of ``runtime.benchmark.accuracy``, run with the model in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import exp
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from transformers import PreTrainedModel

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.tokenizer_files import has_tokenizer
from tt_edge.compile.parity.pytorch_vlm import Inputs, cast, chat_text, model_inputs, processor_inputs, processor_of
from tt_edge.compile.parity.reference import clean_generation
from tt_edge.runtime.benchmark.accuracy import MAX_ANSWER, Accuracy, Question
from tt_edge.runtime.llm import LLM


@dataclass(frozen=True)
class _Row:
    """The model inputs of one question: a batch of one."""

    question: Question
    inputs: Inputs

    @property
    def length(self) -> int:
        return self.inputs["input_ids"].shape[1]


@torch.inference_mode()
def measure_pytorch(
    model: PreTrainedModel, checkpoint: Checkpoint, llm: LLM, questions: Sequence[Question], batch: int = 64
) -> Accuracy:
    """The greedy answers of ``generate()``, and the perplexity of the right answers.

    Tokenization, chat rendering and image preprocessing use the checkpoint's own tokenizer and processor in transformers;
    those of ``llm``'s bundle only if the checkpoint has none. Only prompts of equal length share a batch, so there is no
    padding.
    """
    theirs = _Theirs(model, checkpoint, llm)
    rows = [_Row(question, theirs.inputs(question)) for question in questions]
    ends, right = llm.tokenizer.eos_token_ids, 0
    with clean_generation(model):
        for group in _equally_long(rows, batch):
            inputs = {name: torch.cat([row.inputs[name] for row in group]) for name in group[0].inputs}
            new = model.generate(
                **cast(inputs, model.dtype), max_new_tokens=MAX_ANSWER, eos_token_id=list(ends) or None
            )
            for tokens, row in zip(new[:, group[0].length :].tolist(), group, strict=True):
                right += theirs.decode(_until_end(tokens, ends)) == row.question.answer
    losses = [_answer_losses(model, row, theirs.answer(row.question)) for row in rows]
    return Accuracy(right, len(questions), exp(torch.cat(losses).mean().item()))


class _Theirs:
    """transformers' tokenizer and processor of a checkpoint."""

    def __init__(self, model: PreTrainedModel, checkpoint: Checkpoint, llm: LLM) -> None:
        self._model, self._llm = model, llm
        self._tokenizer: Any = checkpoint.tokenizer if has_tokenizer(checkpoint) else None
        self._processor: Any = None if llm.vision is None else processor_of(checkpoint)

    def inputs(self, question: Question) -> Inputs:
        """The model inputs for one question."""
        prompt = question.prompt_of(self._llm)
        special = prompt.add_special_tokens
        if self._llm.vision is not None:
            if self._processor is not None:
                text = prompt.text
                if question.messages and self._processor.chat_template:  # its own, not the bundle's
                    text = chat_text(self._processor, question.messages)
                return processor_inputs(self._processor, text, prompt.images, add_special_tokens=special)
            ids, images = self._llm.vision.processor.tokenize(
                self._llm.tokenizer, prompt.text, prompt.images, add_special_tokens=special
            )
            return model_inputs(self._model, [ids], images)
        if self._tokenizer is None:
            ids = self._llm.tokenizer.encode(prompt.text, add_special_tokens=special)
        elif question.messages and self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(
                list(question.messages), add_generation_prompt=True, tokenize=False
            )
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = self._tokenizer(prompt.text, add_special_tokens=special)["input_ids"]
        return model_inputs(self._model, [ids], ())

    def answer(self, question: Question) -> list[int]:
        """Token ids of the right answer."""
        if self._tokenizer is None:
            return self._llm.tokenizer.encode(question.answer, add_special_tokens=False)
        ids: list[int] = self._tokenizer(question.answer, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: list[int]) -> str:
        if self._tokenizer is None:
            return self._llm.tokenizer.decode(ids)
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def _equally_long(rows: Sequence[_Row], batch: int) -> Iterator[list[_Row]]:
    """Group rows that can share a batch: equal length, and no images."""

    def kind(row: _Row) -> tuple[bool, int]:
        return bool(row.question.images), row.length

    for (pictures, _), group in groupby(sorted(rows, key=kind), key=kind):
        members, size = list(group), 1 if pictures else batch
        yield from (members[first : first + size] for first in range(0, len(members), size))


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    return tokens[: next((index for index, token in enumerate(tokens) if token in ends), len(tokens))]


def _answer_losses(model: PreTrainedModel, row: _Row, answer: list[int]) -> Tensor:
    """Negative log-likelihoods ``[len(answer)]`` of the answer's tokens, each given all before it."""
    inputs = dict(row.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:  # an answer is text
        inputs["mm_token_type_ids"] = pad(inputs["mm_token_type_ids"], (0, len(answer)))
    logits = model(**cast(inputs, model.dtype), use_cache=False).logits[0, row.length - 1 : -1].float()
    return cross_entropy(logits, torch.tensor(answer), reduction="none")
