"""Comparing the logits and greedy tokens of a captured network with Hugging Face's."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tt_edge.compile.overflow import overflow_of
from tt_edge.compile.parity.golden import GoldenMaker
from tt_edge.compile.parity.images.features import compare_features
from tt_edge.compile.parity.images.pruning import pruned_model
from tt_edge.compile.parity.images.pytorch_vlm import cast, model_inputs
from tt_edge.compile.parity.layers import compare_layers_with
from tt_edge.compile.parity.prompts import Prompt, picture_prompts, text_prompts
from tt_edge.compile.parity.references.loading import clean_generation
from tt_edge.compile.parity.references.rounding import farthest_rounding
from tt_edge.compile.parity.report import (
    ParityReport,
    RowParity,
    UnprunedAgreement,
    allowed,
)
from tt_edge.compile.parity.rows import compare_row
from tt_edge.compile.vision.features import learned_tokens
from tt_edge.config import Precision
from tt_edge.network.ir import Network
from tt_edge.proof.replay import teacher_forced
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.multimodal.images import ProcessedImage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.contract import IOContract
    from tt_edge.runtime.multimodal.pipeline import VisionPipeline

#: Greedy tokens of Hugging Face, and the logits ``[new_tokens, V]`` that chose them: its own, and in fp32.
_Answer = tuple[list[int], np.ndarray, np.ndarray]


class PyTorchReference:
    """What Hugging Face answers to prompts. A prompt is answered once, however many networks are compared.

    Its own logits are those of ``model``; in fp32, those of ``farthest_rounding``.

    Search is plain greedy: the checkpoint's generation settings are ignored. ``truth`` is the model in float32 (default: ``model``
    itself, computed in float32).
    """

    def __init__(self, model: PreTrainedModel, precision: Precision, truth: PreTrainedModel | None = None) -> None:
        self.model, self.precision = model, precision
        self.truth = truth or (copy.deepcopy(model).float() if precision is not Precision.FP32 else model)
        self._answers: dict[tuple[object, ...], tuple[Prompt, _Answer]] = {}

    def answer(self, prompt: Prompt, new_tokens: int) -> _Answer:
        """Greedy tokens of ``generate()``, and the logits that chose them: in the model's precision, and in fp32."""
        key = (tuple(prompt.ids), tuple(map(id, prompt.pictures)), new_tokens)
        if key not in self._answers:  # the prompt is kept, and with it its pictures' ids
            self._answers[key] = (prompt, self._compute(prompt, new_tokens))
        return self._answers[key][1]

    def _compute(self, prompt: Prompt, new_tokens: int) -> _Answer:
        with torch.no_grad(), clean_generation(self.model), clean_generation(self.truth), self._pruned(prompt):
            out = self.model.generate(
                **cast(model_inputs(self.model, [prompt.ids], prompt.pictures), self.model.dtype),
                max_new_tokens=new_tokens,
            )
            tokens: list[int] = out[0, -new_tokens:].tolist()
            # In one call, a placeholder among the new tokens would stand for an image that is not there.
            # So would PaliGemma's new tokens be of the prompt, whose tokens all see each other.
            apart = self.model.config.model_type == "paligemma" or _placeholders(self.model) & set(tokens)
            chosen_by = _step_by_step if apart else _in_one_call
            exact = chosen_by(self.truth, prompt, tokens)
            if self.truth is not self.model:
                return tokens, chosen_by(self.model, prompt, tokens), exact
            own = farthest_rounding(
                self.model, {"logits": exact}, lambda: {"logits": chosen_by(self.model, prompt, tokens)}
            )["logits"]
        return tokens, own, exact

    @contextmanager
    def _pruned(self, prompt: Prompt) -> Iterator[None]:
        """Within the block, both models take the images of ``prompt`` with the tokens that are kept, if some are dropped."""
        with ExitStack() as stack:
            for model in {id(each): each for each in (self.model, self.truth)}.values():
                if prompt.images.kept:
                    sizes = [picture.groups for picture in prompt.pictures]
                    stack.enter_context(pruned_model(model, prompt.keep, prompt.images.kept, sizes))
            yield

    def unpruned(self, prompts: Sequence[Prompt], new_tokens: int) -> UnprunedAgreement:
        """How many of the greedy tokens, of prompts whose images have dropped tokens, the model chooses with all tokens, too."""
        equal = 0
        for prompt in prompts:
            whole = Prompt(list(prompt.whole), prompt.pictures)
            pairs = zip(self.answer(prompt, new_tokens)[0], self.answer(whole, new_tokens)[0], strict=True)
            equal += sum(one == other for one, other in pairs)
        return UnprunedAgreement(prompts[0].keep, equal, new_tokens * len(prompts))


def check_parity(
    model: PreTrainedModel | PyTorchReference,
    network: Network,
    contract: IOContract,
    precision: Precision,
    *,
    new_tokens: int = 32,
    seed: int = 0,
    vision: VisionPipeline | None = None,
    pictures: Sequence[ProcessedImage] = (),
    special_ids: Sequence[int] = (),
    truth: PreTrainedModel | None = None,
    maker: GoldenMaker | None = None,
) -> ParityReport:
    """Compare a captured network with ``model`` in PyTorch, in a ragged batch and with a batch of one.

    ``model`` may be a ``PyTorchReference``, for several networks of one model. ``truth`` is as there.

    For a vision-language model also with ``pictures``, images that ``vision``'s captured network encodes; its features
    are compared, too. Random text contains none of ``special_ids``. Hugging Face's results are passed to ``maker``, if any.
    """
    reference = model if isinstance(model, PyTorchReference) else PyTorchReference(model, precision, truth)
    model, truth = reference.model, reference.truth
    session = ReferenceSession(network, contract)
    batches = list(_batches(contract, new_tokens, seed, vision, pictures, special_ids))
    rows: list[RowParity] = []
    for batch in batches:
        references = [reference.answer(prompt, new_tokens) for prompt in batch]
        tokens = [tokens for tokens, _, _ in references]
        logits = teacher_forced(session, [p.ids for p in batch], [p.images for p in batch], tokens)
        if maker is not None and not any(
            prompt.images.kept for prompt in batch
        ):  # which tokens are kept is the device's choice
            maker.add_batch(batch, references, pictures)
        rows += [
            compare_row(len(p.ids), out, *answer, len(p.pictures))
            for p, out, answer in zip(batch, logits, references, strict=True)
        ]
    features = compare_features(model, truth, vision.encoder, pictures) if vision is not None and pictures else ()
    dropping = [prompt for batch in batches for prompt in batch if prompt.images.kept]
    if maker is not None and features and not dropping:
        maker.add_features(model, truth, pictures)
    own = max(row.reference_error for row in rows)
    tolerance = allowed(precision.value, own)
    unpruned = reference.unpruned(dropping, new_tokens) if dropping else None
    report = ParityReport(precision.value, tuple(rows), tolerance, features, unpruned=unpruned)
    texts = [prompt.ids for batch in batches for prompt in batch if not prompt.pictures]
    if not report.logits_passed and texts:
        longest = max(texts, key=len)
        # Where PyTorch itself overflows, there is no number to compare layers with.
        layers = overflow_of(model, model_inputs(model, [longest], ()))
        if layers is None:
            layers = compare_layers_with(model, network, contract, longest, tolerance).render()
        report = replace(report, layers=layers)
    return report


def _batches(
    contract: IOContract,
    new_tokens: int,
    seed: int,
    vision: VisionPipeline | None,
    pictures: Sequence[ProcessedImage],
    special_ids: Sequence[int],
) -> Iterator[list[Prompt]]:
    """The batches to compare: ragged text, a single text, and images with a text. A model whose prompts need an image
    always gets one."""
    texts = text_prompts(contract, new_tokens, seed, special_ids)
    if vision is None or not vision.processor.placeholders.needs_image:
        yield texts
        if len(texts) > 1:
            yield texts[:1]
    else:
        texts = []
    if vision is not None and pictures:
        mixed = [*picture_prompts(contract, vision, pictures, new_tokens, seed, special_ids), *texts[:1]]
        if contract.max_batch == 1:
            mixed = [prompt for prompt in mixed if prompt.pictures]
        for first in range(0, len(mixed), contract.max_batch):
            yield mixed[first : first + contract.max_batch]


def _placeholders(model: PreTrainedModel) -> set[int]:
    """Ids that stand for features of an image or a video, or for learned rows around them."""
    names = ("image_token_id", "image_token_index", "video_token_id")
    found = {token for name in names if (token := getattr(model.config, name, None)) is not None}
    return found | set(learned_tokens(model))


def _in_one_call(model: PreTrainedModel, prompt: Prompt, tokens: list[int]) -> np.ndarray:
    """The logits ``[T, V]`` that choose each of the new ``tokens``, given those before it."""
    inputs = model_inputs(model, [prompt.ids + tokens], prompt.pictures)
    logits: Tensor = model(**cast(inputs, model.dtype)).logits
    return logits[0, -len(tokens) - 1 : -1].float().numpy()


def _step_by_step(model: PreTrainedModel, prompt: Prompt, tokens: list[int]) -> np.ndarray:
    """As ``_in_one_call``, by a ``generate()`` that is made to choose ``tokens``."""
    left = iter(tokens)

    def forced(_: Tensor, scores: Tensor) -> Tensor:
        chosen = torch.full_like(scores, -torch.inf)
        chosen[:, next(left)] = 0
        return chosen

    out = model.generate(
        **cast(model_inputs(model, [prompt.ids], prompt.pictures), model.dtype),
        max_new_tokens=len(tokens),
        logits_processor=[forced],
        output_logits=True,
        return_dict_in_generate=True,
    )
    return np.concatenate([step.float().numpy() for step in out.logits])
