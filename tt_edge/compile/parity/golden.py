"""The golden set in a bundle: Hugging Face's results from a parity check, for verification on the device."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tt_edge.compile.parity.images.features import features_of
from tt_edge.compile.parity.prompts import Prompt
from tt_edge.compile.parity.report import HALF_PRECISION_FACTOR, ParityReport
from tt_edge.network.storage import write_weights
from tt_edge.proof.golden import MAX_BYTES, GoldenFeatures, GoldenImage, GoldenPrompt, GoldenSet
from tt_edge.runtime.multimodal.images import ProcessedImage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class GoldenMaker:
    """Collects prompts, images and answers of one parity check while they are compared."""

    def __init__(self) -> None:
        self._pixels: list[NDArray[np.uint8]] = []
        self._tables: list[dict[str, GoldenFeatures]] = []
        self._prompts: dict[tuple[tuple[int, ...], tuple[int, ...]], GoldenPrompt] = {}
        self._batches: list[tuple[int, ...]] = []
        self._own_feature_error = 0.0

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

    def add_features(self, model: PreTrainedModel, truth: PreTrainedModel, pictures: Sequence[ProcessedImage]) -> None:
        """Add the tower's features of each image, computed one image at a time; ``truth`` is the model in fp32."""
        for number, picture in enumerate(pictures):
            exact = features_of(truth, [picture])
            own = exact if truth is model else features_of(model, [picture])
            self._tables[number] = {name: GoldenFeatures.of(table) for name, table in exact.items()}
            errors = [float(np.linalg.norm(own[name] - t) / np.linalg.norm(t)) for name, t in exact.items()]
            self._own_feature_error = max(self._own_feature_error, *errors)

    def made(self, report: ParityReport) -> tuple[GoldenSet | None, str]:
        """The golden set, and a line about images that were omitted because it was too large ("" if none were).

        Images are omitted starting with the last one, together with the prompts that contain them.
        """
        for count in range(len(self._pixels), -1, -1):
            golden = self._with(report, count)
            if golden is None or golden.nbytes < MAX_BYTES:
                break
        left_out = len(self._pixels) - count
        note = f"{left_out} images are left out of the golden set, which has room for {MAX_BYTES >> 20} MiB"
        return golden, note if left_out else ""

    def _with(self, report: ParityReport, count: int) -> GoldenSet | None:
        """The set with the first ``count`` images; ``None`` where no prompt remains."""
        kept = {i: p for i, p in enumerate(self._prompts.values()) if all(image < count for image in p.images)}
        places = {number: place for place, number in enumerate(kept)}
        batches = (tuple(places[number] for number in batch if number in places) for batch in self._batches)
        if not kept:
            return None
        used = sorted({image for prompt in kept.values() for image in prompt.images})
        half = report.precision != "fp32"
        return GoldenSet(
            precision=report.precision,
            tolerance=report.tolerance,
            prompts=tuple(kept.values()),
            batches=tuple(dict.fromkeys(batch for batch in batches if batch)),
            images=tuple(GoldenImage(self._pixels[i], self._tables[i]) for i in range(max(used, default=-1) + 1)),
            feature_tolerance=HALF_PRECISION_FACTOR * self._own_feature_error if half else report.tolerance,
        )


def golden_bytes(golden: GoldenSet) -> bytes:
    """The file's content."""
    buffer = io.BytesIO()
    write_weights(golden.tensors(), buffer)
    return buffer.getvalue()
