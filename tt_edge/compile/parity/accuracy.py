"""The model in PyTorch answers the items of ``tt_edge.evaluation``, for numbers side by side with a bundle's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.tokenizer_files import has_tokenizer
from tt_edge.compile.parity.images.pytorch_vlm import (
    Inputs,
    cast,
    chat_text,
    model_inputs,
    processor_inputs,
    processor_of,
)
from tt_edge.compile.parity.references.loading import clean_generation
from tt_edge.compile.vision.families import PLACES
from tt_edge.evaluation.bundle_model import choice_ids
from tt_edge.evaluation.requests import Answer, Ask, Item
from tt_edge.runtime.llm import LLM

#: Items that are generated and scored alternate in groups of this many: equally long prompts share a batch.
_GROUP = 256


@dataclass(frozen=True)
class _Row:
    """The model inputs of one item: a batch of one."""

    item: Item
    inputs: Inputs

    @property
    def length(self) -> int:
        return self.inputs["input_ids"].shape[1]


class PyTorchModel:
    """``model``, loaded from ``checkpoint``, answers items with ``generate()`` and its own logits.

    Tokenization, chat rendering and image preprocessing use the checkpoint's own tokenizer and processor in transformers;
    those of ``llm``'s bundle only if the checkpoint has none. Only prompts of equal length share a batch, so there is no
    padding. ``precision`` and ``quantized`` say how the model was loaded.
    """

    word = "PyTorch"

    def __init__(
        self,
        model: PreTrainedModel,
        checkpoint: Checkpoint,
        llm: LLM,
        *,
        batch: int = 64,
        precision: str = "",
        quantized: str = "",
    ) -> None:
        self._model, self._llm, self._batch = model, llm, batch
        self._theirs = TheirTexts(model, checkpoint, llm)
        self._key = key_of(checkpoint, precision, quantized)

    @property
    def key(self) -> str:
        return self._key

    def check(self, items: Sequence[Item]) -> None:
        """Everything fits."""

    def answers(self, items: Sequence[Item]) -> Iterator[tuple[Item, Answer]]:
        """As ``BundleModel.answers``."""
        for item, text in self._generated([item for item in items if item.score is None]):
            yield item, Answer(text)
        scored = [item for item in items if item.score is not None]
        for first in range(0, len(scored), _GROUP):
            group = scored[first : first + _GROUP]
            asked = [item for item in group if item.generate is not None]
            texts = {item.id: text for item, text in self._generated(asked)}
            for item in group:
                yield item, replace(self._score(item), text=texts.get(item.id))

    @torch.inference_mode()
    def _generated(self, items: Sequence[Item]) -> Iterator[tuple[Item, str]]:
        ends = self._llm.tokenizer.eos_token_ids
        rows = [_Row(item, self._theirs.inputs(item.ask)) for item in items if not item.ask.images]
        pictures = ([_Row(item, self._theirs.inputs(item.ask))] for item in items if item.ask.images)
        for group in chain(_equally_long(rows, self._batch), pictures):
            asked = group[0].item.generate
            assert asked is not None
            inputs = {name: torch.cat([row.inputs[name] for row in group]) for name in group[0].inputs}
            with clean_generation(self._model):
                new = self._model.generate(
                    **cast(inputs, self._model.dtype),
                    max_new_tokens=asked.max_new_tokens,
                    eos_token_id=list(ends) or None,
                )
            for tokens, row in zip(new[:, group[0].length :].tolist(), group, strict=True):
                yield row.item, self._theirs.text(until_end(tokens, ends), asked.stop)

    @torch.inference_mode()
    def _score(self, item: Item) -> Answer:
        wanted = item.score
        assert wanted is not None
        row = _Row(item, self._theirs.inputs(item.ask))
        continuation = wanted.continuation
        targets = self._theirs.encode(continuation) if isinstance(continuation, str) else list(continuation)
        inputs = with_answer(self._model, row.inputs, targets[:-1])
        logits: Tensor = self._model(**cast(inputs, self._model.dtype), use_cache=False).logits[0, row.length - 1 :]
        logprobs = logits.double().log_softmax(-1)
        choices = choice_ids(self._theirs.encode, item.ask.prompt, wanted.choices)
        own = logprobs[range(len(targets)), targets] if targets else logprobs.new_zeros(0)
        greedy = logits[: len(targets)].argmax(-1).tolist() == targets
        return Answer(
            logprob=own.sum().item(),
            tokens=len(targets),
            greedy=greedy,
            choices=tuple(logprobs[0, list(choices)].tolist()),
        )


class TheirTexts:
    """transformers' tokenizer and processor of a checkpoint."""

    def __init__(self, model: PreTrainedModel, checkpoint: Checkpoint, llm: LLM) -> None:
        self._model, self._llm = model, llm
        self._tokenizer: Any = checkpoint.tokenizer if has_tokenizer(checkpoint) else None
        self._processor: Any = None if llm.vision is None else processor_of(checkpoint)

    def inputs(self, ask: Ask) -> Inputs:
        """The model inputs for one prompt."""
        if ask.ids:
            return model_inputs(self._model, [list(ask.ids)], ())
        prompt = ask.prompt_of(self._llm)
        special = prompt.add_special_tokens
        if self._llm.vision is not None:
            if self._processor is not None:
                text = prompt.text
                if ask.messages and self._processor.chat_template:  # its own, not the bundle's
                    text = chat_text(self._processor, ask.messages)
                return processor_inputs(self._processor, text, prompt.images, add_special_tokens=special)
            ids, images = self._llm.vision.processor.tokenize(
                self._llm.tokenizer, prompt.text, prompt.images, add_special_tokens=special
            )
            return model_inputs(self._model, [ids], images)
        if self._tokenizer is None:
            ids = self._llm.tokenizer.encode(prompt.text, add_special_tokens=special)
        elif ask.messages and self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(list(ask.messages), add_generation_prompt=True, tokenize=False)
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = self._tokenizer(prompt.text, add_special_tokens=special)["input_ids"]
        return model_inputs(self._model, [ids], ())

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` behind a prompt."""
        if self._tokenizer is None:
            return self._llm.tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def text(self, ids: list[int], stop: Sequence[str]) -> str:
        """The text of ``ids`` before the first of the ``stop`` strings."""
        tokenizer: Any = self._llm.tokenizer if self._tokenizer is None else self._tokenizer

        def stops(count: int) -> bool:  # a stop string may be a special token
            text = str(tokenizer.decode(ids[:count], skip_special_tokens=False))
            return any(string in text for string in stop)

        if stops(len(ids)):
            ids = ids[: next(count for count in range(len(ids) + 1) if stops(count))]
        text = str(tokenizer.decode(ids, skip_special_tokens=True))
        return min((text.partition(string)[0] for string in stop), key=len, default=text)


def with_answer(model: PreTrainedModel, inputs: Inputs, tokens: Sequence[int]) -> Inputs:
    """``inputs`` of one prompt with ``tokens`` of its answer behind it.

    What says something of each token (masks, kinds of tokens) goes on as in ``generate()``, by the model's own rule.
    """
    found: Inputs = dict(inputs)
    for _ in tokens:
        found = model._update_model_kwargs_for_generation(ModelOutput(), found, is_encoder_decoder=False)
    for name in found:
        if name.endswith(PLACES):  # an answer has no image
            found[name] = pad(found[name], (0, len(tokens)))
    return found | {"input_ids": torch.cat([found["input_ids"], torch.tensor([list(tokens)], dtype=torch.long)], 1)}


def key_of(checkpoint: Checkpoint, precision: str, quantized: str) -> str:
    """What tells the answers of a checkpoint in PyTorch from others'."""
    files = sorted(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in checkpoint.folder.iterdir()
        if path.is_file()
    )
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return f"pytorch {digest} {precision} {quantized} {torch.__version__}"


def _equally_long(rows: Sequence[_Row], batch: int) -> Iterator[list[_Row]]:
    """Group rows that can share a batch: those of equal length and limits."""

    def kind(row: _Row) -> tuple[int, int]:
        return row.length, row.item.generate.max_new_tokens if row.item.generate is not None else 0

    for _, group in groupby(sorted(rows, key=kind), key=kind):
        members = list(group)
        yield from (members[first : first + batch] for first in range(0, len(members), batch))


def until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """``tokens`` before the first of ``ends``."""
    return tokens[: next((index for index, token in enumerate(tokens) if token in ends), len(tokens))]
