"""An encoder-decoder in PyTorch answers the items of ``tt_edge.evaluation``, for numbers side by side with a bundle's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.parity.accuracy import TheirTexts, key_of, until_end
from tt_edge.compile.parity.images.pytorch_vlm import cast, processor_of
from tt_edge.compile.parity.references.loading import growing_cache
from tt_edge.evaluation.bundle_model import choice_ids
from tt_edge.evaluation.requests import Answer, Ask, Item, Score
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.multimodal.images import pixels_of
from tt_edge.runtime.seq2seq.prompts import the_page

Inputs = dict[str, Tensor]


class PyTorchSeq2Seq:
    """As ``PyTorchModel``, one item at a time: greedy ``generate()`` with the checkpoint's generation settings, as the bundle
    answers. Texts, pages and speech are prepared by transformers, an image with a text by the checkpoint's processor; ``llm`` only
    says what an answer begins with."""

    word = "PyTorch"

    def __init__(
        self, model: PreTrainedModel, checkpoint: Checkpoint, llm: LLM, *, precision: str = "", quantized: str = ""
    ) -> None:
        self._model, self._checkpoint, self._llm = model, checkpoint, llm
        reads_both = llm.source is not None and llm.source.takes_pages and llm.source.takes_text
        self._processor = processor_of(checkpoint) if reads_both else None
        self._theirs = TheirTexts(model, checkpoint, llm)
        self.key = key_of(checkpoint, precision, quantized)

    def check(self, items: Sequence[Item]) -> None:
        """Everything fits."""

    @torch.inference_mode()
    def answers(self, items: Sequence[Item]) -> Iterator[tuple[Item, Answer]]:
        """As ``BundleModel.answers``."""
        for item in items:
            inputs, start = self._inputs(item.ask)
            text = None if item.generate is None else self._generated(item, inputs, start)
            if item.score is None:
                yield item, Answer(text)
            else:
                yield item, self._scored(item, item.score, text, inputs, start)

    def _inputs(self, ask: Ask) -> tuple[Inputs, list[int]]:
        """The encoder's inputs, and what the answer begins with."""
        from transformers import AutoFeatureExtractor, AutoImageProcessor

        source = self._llm.source
        assert source is not None
        dtype, folder = self._model.dtype, self._checkpoint.folder
        if ask.speech is not None:
            extractor = AutoFeatureExtractor.from_pretrained(folder)
            audio = ask.speech.audio
            made = extractor(audio.samples, sampling_rate=audio.rate, return_tensors="pt")
            start = list(self._llm.encode(ask.speech).ids)  # the language may be detected
            return {name: t.to(dtype) if t.is_floating_point() else t for name, t in made.items()}, start
        prompt = ask.prompt_of(self._llm)
        if self._processor is not None:
            image = pixels_of(the_page(prompt.images))
            return cast(self._processor(images=image, text=prompt.text, return_tensors="pt"), dtype), list(
                source.start.default
            )
        if source.takes_pages:
            processor = AutoImageProcessor.from_pretrained(folder)
            pixels = processor(pixels_of(the_page(prompt.images)), return_tensors="pt").pixel_values
            start = self._theirs.encode(prompt.text) if prompt.text else list(source.start.default)
            return {"pixel_values": pixels.to(dtype)}, start
        given: Inputs = self._theirs.inputs(ask)
        return {name: given[name] for name in ("input_ids", "attention_mask")}, list(source.start.default)

    def _generated(self, item: Item, inputs: Inputs, start: list[int]) -> str:
        from transformers import GenerationMixin

        assert item.generate is not None
        ends = self._llm.tokenizer.eos_token_ids
        given = {"decoder_input_ids": torch.tensor([start])} if "input_ids" not in inputs else {}
        # A model that reads an image and a text has a way of its own to generate; others' do more than answer (Whisper's).
        answers = partial(GenerationMixin.generate, self._model) if self._processor is None else self._model.generate
        out = answers(
            **inputs,
            **given,
            **growing_cache(self._model),
            max_new_tokens=item.generate.max_new_tokens,
            eos_token_id=list(ends) or None,
            do_sample=False,
            num_beams=1,
        )
        return self._theirs.text(until_end(out[0, len(start) :].tolist(), ends), item.generate.stop)

    def _scored(self, item: Item, wanted: Score, text: str | None, inputs: Inputs, start: list[int]) -> Answer:
        """As ``PyTorchModel`` scores: what follows ``start`` and a token that the settings force."""
        forced = self._llm.generation_defaults.forced_bos_token_id
        prompt = [*start, *([] if forced is None or len(start) > 1 else [forced])]
        continuation = wanted.continuation
        targets = self._theirs.encode(continuation) if isinstance(continuation, str) else list(continuation)
        given: Any = {**inputs, "decoder_input_ids": torch.tensor([[*prompt, *targets[:-1]]])}
        logits: Tensor = self._model(**given, use_cache=False).logits[0, len(prompt) - 1 :]
        logprobs = logits.double().log_softmax(-1)
        choices = choice_ids(self._theirs.encode, item.ask.prompt, wanted.choices)
        own = logprobs[range(len(targets)), targets] if targets else logprobs.new_zeros(0)
        return Answer(
            text,
            logprob=own.sum().item(),
            tokens=len(targets),
            greedy=logits[: len(targets)].argmax(-1).tolist() == targets,
            choices=tuple(logprobs[0, list(choices)].tolist()),
        )
