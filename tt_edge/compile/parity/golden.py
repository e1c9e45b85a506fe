"""The golden set in a bundle: Hugging Face's results from a parity check, for verification on the device."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tt_edge.compile.parity.images.features import features_of, own_features
from tt_edge.compile.parity.prompts import Prompt
from tt_edge.compile.parity.report import ParityReport, allowed
from tt_edge.network.storage import write_weights
from tt_edge.proof.golden import MAX_BYTES, GoldenFeatures, GoldenImage, GoldenPrompt, GoldenSet, GoldenSource
from tt_edge.proof.sources import cross_features
from tt_edge.runtime.multimodal.images import ProcessedImage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.parity.seq2seq.logits import Answer


class GoldenMaker:
    """Collects prompts, images and answers of one parity check while they are compared."""

    def __init__(self) -> None:
        self._pixels: list[NDArray[np.uint8]] = []
        self._tables: list[dict[str, GoldenFeatures]] = []
        self._prompts: dict[tuple[tuple[int, ...], tuple[int, ...]], GoldenPrompt] = {}
        self._batches: list[tuple[int, ...]] = []
        self._own_feature_error = 0.0
        self._sources: list[GoldenSource] = []

    def add_images(self, pixels: Sequence[NDArray[np.uint8]]) -> None:
        """Add the images before preprocessing, uint8 ``[H, W, 3]``, in the order in which the check uses them."""
        self._pixels, self._tables = list(pixels), [{} for _ in pixels]

    def add_batch(
        self,
        prompts: Sequence[Prompt],
        references: Sequence[tuple[list[int], np.ndarray, np.ndarray]],
        pictures: Sequence[ProcessedImage],
    ) -> None:
        """Add prompts that were compared in one batch, with the greedy tokens and the logits ``[T, V]`` that chose them:
        PyTorch's own, and those of the model in fp32."""
        numbers = []
        for prompt, (tokens, own, exact) in zip(prompts, references, strict=True):
            images = tuple(next(i for i, p in enumerate(pictures) if p is picture) for picture in prompt.pictures)
            key = (tuple(prompt.ids), images)
            if key not in self._prompts:
                self._prompts[key] = GoldenPrompt.of(prompt.ids, tokens, own, exact, images)
            numbers.append(list(self._prompts).index(key))
        self._batches.append(tuple(numbers))

    def add_sources(
        self,
        sources: Sequence[Mapping[str, np.ndarray]],
        start: Sequence[int],
        answers: Sequence[Answer],
        batches: Sequence[Sequence[int]],
        own_error: float,
    ) -> None:
        """Add the sources of an encoder-decoder with the ``answers`` that begin with ``start``.

        ``batches`` are numbers of sources that were compared together, ``own_error`` is PyTorch's own relative error of keys and
        values.
        """
        self._sources = [
            GoldenSource(source, cross_features(answer.exact_cross))
            for source, answer in zip(sources, answers, strict=True)
        ]
        for number, answer in enumerate(answers):
            prompt = GoldenPrompt.of(start, answer.tokens, answer.own, answer.exact, source=number)
            self._prompts[((), (number,))] = prompt
        self._batches = [tuple(batch) for batch in batches]
        self._own_feature_error = own_error

    def add_features(self, model: PreTrainedModel, truth: PreTrainedModel, pictures: Sequence[ProcessedImage]) -> None:
        """Add the tower's features of each image, computed one image at a time; ``truth`` is the model in fp32."""
        for number, picture in enumerate(pictures):
            exact = features_of(truth, [picture])
            own = own_features(model, truth, [picture], exact)
            self._tables[number] = {name: GoldenFeatures.of(table) for name, table in exact.items()}
            errors = [float(np.linalg.norm(own[name] - t) / np.linalg.norm(t)) for name, t in exact.items()]
            self._own_feature_error = max(self._own_feature_error, *errors)

    def made(self, report: ParityReport) -> tuple[GoldenSet | None, str]:
        """The golden set, and a line about images or sources that were omitted because it was too large ("" if none were).

        They are omitted starting with the last one, together with the prompts that contain them.
        """
        most, what = max((len(self._pixels), "images"), (len(self._sources), "sources"))
        for count in range(most, -1, -1):
            golden = self._with(report, count)
            if golden is None or golden.nbytes < MAX_BYTES:
                break
        left_out = most - count
        note = f"{left_out} {what} are left out of the golden set, which has room for {MAX_BYTES >> 20} MiB"
        return golden, note if left_out else ""

    def _with(self, report: ParityReport, count: int) -> GoldenSet | None:
        """The set with the first ``count`` images or sources; ``None`` where no prompt remains."""
        needs = ((p, (*p.images, *(() if p.source is None else (p.source,)))) for p in self._prompts.values())
        kept = {i: p for i, (p, given) in enumerate(needs) if all(number < count for number in given)}
        places = {number: place for place, number in enumerate(kept)}
        batches = (tuple(places[number] for number in batch if number in places) for batch in self._batches)
        if not kept:
            return None
        used = sorted({image for prompt in kept.values() for image in prompt.images})
        return GoldenSet(
            precision=report.precision,
            tolerance=report.tolerance,
            prompts=tuple(kept.values()),
            batches=tuple(dict.fromkeys(batch for batch in batches if batch)),
            images=tuple(GoldenImage(self._pixels[i], self._tables[i]) for i in range(max(used, default=-1) + 1)),
            feature_tolerance=allowed(report.precision, self._own_feature_error),
            sources=tuple(self._sources[:count]),
        )


def golden_bytes(golden: GoldenSet) -> bytes:
    """The file's content."""
    buffer = io.BytesIO()
    write_weights(golden.tensors(), buffer)
    return buffer.getvalue()
