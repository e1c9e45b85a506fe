"""Running a session on the golden set and comparing: any session, an engine's or the reference's. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import BundleError
from tt_edge.proof.golden import GoldenPrompt, GoldenSet, rest_of
from tt_edge.proof.sketch import squared_length, without_never
from tt_edge.proof.sources import CROSS, encode, error_of, fits
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES, PromptImages, place_images

if TYPE_CHECKING:
    from tt_edge.runtime.engine.session import Session
    from tt_edge.runtime.multimodal.pipeline import VisionPipeline
    from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
    from tt_edge.runtime.seq2seq.source import Source


@dataclass(frozen=True)
class RowResult:
    """One prompt of one batch: relative L2 error of its logits, and how its greedy tokens compare.

    ``ties`` are tokens that differ where PyTorch's own margin is within the error; ``first_wrong_step`` is the first step
    whose logits are off by more than the tolerance, of a row that does not match (0 is the prefill).
    """

    batch: int
    prompt: int
    prompt_tokens: int
    images: int
    relative_error: float
    tokens: int
    ties: int
    mismatches: int
    first_wrong_step: int | None


@dataclass(frozen=True)
class FeatureResult:
    """One table of features of one image, or the keys and values of one source: relative L2 error."""

    image: int
    table: str
    relative_error: float
    of: str = "image"


@dataclass(frozen=True)
class Replay:
    """What a session answered beside the golden set. ``word`` says what ran, such as ``executed by TensorRT …``."""

    word: str
    precision: str
    tolerance: float
    rows: tuple[RowResult, ...]
    feature_tolerance: float = 0.0
    features: tuple[FeatureResult, ...] = ()

    @property
    def logits_passed(self) -> bool:
        # Row by row: the largest of numbers with a NaN among them may be any.
        return all(row.relative_error <= self.tolerance and not row.mismatches for row in self.rows)

    @property
    def features_passed(self) -> bool:
        return all(found.relative_error <= self.feature_tolerance for found in self.features)

    @property
    def passed(self) -> bool:
        return self.logits_passed and self.features_passed

    @property
    def relative_error(self) -> float:
        return float(np.max([row.relative_error for row in self.rows]))  # NaN where one is

    @property
    def first_failure(self) -> RowResult | None:
        """The first row that does not match."""
        bad = (row for row in self.rows if not row.relative_error <= self.tolerance or row.mismatches)
        return next(bad, None)

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "relative_error": self.relative_error, **asdict(self)}

    def render(self) -> str:
        """A line a prompt, a line a table of features, and the verdict."""
        lines = [f"{'prompt':>8}{'images':>8}{'new':>6}{'equal':>7}{'ties':>6}{'logits rel. error':>20}"]
        for row in self.rows:
            equal = row.tokens - row.ties - row.mismatches
            lines.append(
                f"{row.prompt_tokens:>8}{row.images:>8}{row.tokens:>6}{equal:>7}{row.ties:>6}{row.relative_error:>20.2e}"
            )
        lines += [
            f"{found.table} of {found.of} {found.image}: relative error {found.relative_error:.2e}, "
            f"{self.feature_tolerance:.2e} allowed"
            for found in self.features
        ]
        lines.append(
            f"the golden set of Hugging Face and this bundle {'match' if self.passed else 'DO NOT match'}: largest relative "
            f"error of the logits {self.relative_error:.2e}, {self.tolerance:.2e} allowed in {self.precision}; {self.word}"
        )
        return "\n".join(lines)


def replay(
    session: Session, golden: GoldenSet, vision: VisionPipeline | None = None, pipeline: SourcePipeline | None = None
) -> Replay:
    """Answer every batch of ``golden`` with ``session``, fed with the golden tokens, and compare.

    Images are preprocessed and encoded by ``vision``, sources of an encoder-decoder encoded by ``pipeline``. Raises ``BundleError``
    for a golden set of another model, and what ``Session.forward`` raises.
    """
    check_fits(session, golden, vision, pipeline)
    features = encode_images(golden, vision) if vision is not None else []
    sources = [encode(pipeline, source.inputs) for source in golden.sources] if pipeline is not None else []
    features += [
        FeatureResult(number, CROSS, error_of(source, golden.sources[number].cross), "source")
        for number, source in enumerate(sources)
    ]
    rows = []
    for number, batch in enumerate(golden.batches):
        prompts = [golden.prompts[index] for index in batch]
        images = [prompt_images(prompt, golden, vision) for prompt in prompts]
        attend_to(session, prompts, sources)
        logits = teacher_forced(
            session, [p.ids.tolist() for p in prompts], images, [p.tokens.tolist() for p in prompts]
        )
        rows += [
            _compare(number, index, prompt, out, golden.tolerance)
            for index, prompt, out in zip(batch, prompts, logits, strict=True)
        ]
    return Replay(
        session.word, golden.precision, golden.tolerance, tuple(rows), golden.feature_tolerance, tuple(features)
    )


def attend_to(session: Session, prompts: Sequence[GoldenPrompt], sources: Sequence[Source]) -> None:
    """Make the source of each of ``prompts``, a batch, what its slot attends to."""
    for slot, prompt in enumerate(prompts):
        if prompt.source is not None:
            session.write_cross(slot, sources[prompt.source].cross, sources[prompt.source].length)


def check_fits(
    session: Session, golden: GoldenSet, vision: VisionPipeline | None, pipeline: SourcePipeline | None = None
) -> None:
    """Raise ``BundleError`` unless the golden set is of a model like the session's."""
    vocabulary = session.contract.vocab_size
    largest = max(int(array.max()) for p in golden.prompts for array in (p.ids, p.tokens, p.top_ids))
    if largest >= vocabulary:
        raise BundleError(
            f"the golden set has token id {largest} and the model {vocabulary:,} tokens; run `tt-edge verify --model` again"
        )
    have_sources = [prompt.source is not None for prompt in golden.prompts]
    if session.contract.takes_source != all(have_sources) or any(have_sources) != (pipeline is not None):
        raise BundleError(
            "the golden set is of another kind of model (with a source for each prompt, or without); run `tt-edge verify --model` "
            "again"
        )
    if pipeline is not None and not all(fits(pipeline, source.inputs, vocabulary) for source in golden.sources):
        raise BundleError(
            "the golden set has sources that the encoder does not take; run `tt-edge verify --model` again"
        )
    if vision is None and any(prompt.images for prompt in golden.prompts):
        raise BundleError(
            "the golden set has images and the bundle no vision network; run `tt-edge verify --model` again"
        )


def encode_images(golden: GoldenSet, vision: VisionPipeline) -> list[FeatureResult]:
    """Features of every golden image beside the golden ones."""
    results = []
    for number, image in enumerate(golden.images):
        found = vision.encoder.encode([vision.processor.preprocess(image.pixels)])
        results += [FeatureResult(number, table, each.error_of(found[table])) for table, each in image.tables.items()]
    return results


def prompt_images(prompt: GoldenPrompt, golden: GoldenSet, vision: VisionPipeline | None) -> PromptImages:
    """A prompt's images as the network takes them."""
    if not prompt.images or vision is None:
        return NO_IMAGES
    processed = [vision.processor.preprocess(golden.images[index].pixels) for index in prompt.images]
    return vision.prompt_images(prompt.ids.tolist(), processed)


def teacher_forced(
    session: Session, prompts: Sequence[list[int]], images: Sequence[PromptImages], tokens: Sequence[list[int]]
) -> list[np.ndarray]:
    """The session's logits ``[T, V]`` of each prompt, fed with given ``tokens`` (T a prompt) after it, as one batch."""
    session.reset(len(prompts))
    for row, own in enumerate(images):
        if own.features:
            own.write_to(session, row)
    lengths = np.array([len(ids) for ids in prompts])
    ids = np.zeros((len(prompts), lengths.max()), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    steps = [_forward(session, images, ids, lengths)]
    for step in range(len(tokens[0]) - 1):
        column = np.array([[row[step]] for row in tokens], np.int64)
        steps.append(_forward(session, images, column, np.ones(len(prompts), np.int64)))
    return list(np.stack(steps, axis=1))


def _forward(
    session: Session, images: Sequence[PromptImages], ids: NDArray[np.int64], lengths: NDArray[np.int64]
) -> np.ndarray:
    """Logits of a step, with the positions and feature rows of a vision-language model."""
    more: tuple[np.ndarray, ...] = ()
    if session.contract.takes_images:
        past = session.past_lengths.tolist()
        given = [(row, past[row], int(lengths[row]), own) for row, own in enumerate(images)]
        more = place_images(session.contract, ids.shape, given)
    return session.forward(ids, lengths, *more).copy()


def _compare(batch: int, number: int, golden: GoldenPrompt, logits: np.ndarray, tolerance: float) -> RowResult:
    chosen, own, logits = logits.argmax(-1), golden.own_logits, without_never(logits)
    delta = np.take_along_axis(logits, golden.top_ids.astype(np.int64), -1) - golden.top_logits
    squares = np.square(delta.astype(np.float64)).sum(-1)
    squares += squared_length(rest_of(logits, golden.top_ids) - golden.rest)
    norms = golden.norms.astype(np.float64)
    error = float(np.sqrt(squares.sum()) / np.linalg.norm(norms))
    wrong = np.flatnonzero(chosen != golden.tokens)
    # Two logits, each off by the largest error on either side.
    slack = 2 * (np.abs(delta).max(-1) + np.abs(own - golden.top_logits).max(-1))
    margins = np.array([_margin(golden, step, int(chosen[step])) for step in wrong.tolist()])
    ties = margins <= slack[wrong]
    mismatched = wrong[~ties]
    first = None
    if mismatched.size or not error <= tolerance:
        over = np.flatnonzero(~(np.sqrt(squares) <= tolerance * norms))
        first = int(min([*over[:1], *mismatched[:1]], default=int(squares.argmax())))
    return RowResult(
        batch=batch,
        prompt=number,
        prompt_tokens=len(golden.ids),
        images=len(golden.images),
        relative_error=error,
        tokens=len(golden.tokens),
        ties=int(ties.sum()),
        mismatches=len(mismatched),
        first_wrong_step=first,
    )


def _margin(golden: GoldenPrompt, step: int, chosen: int) -> float:
    """PyTorch's own margin between its token and another; infinite where the other is not among the largest logits."""
    at = {int(token): float(logit) for token, logit in zip(golden.top_ids[step], golden.own_logits[step], strict=True)}
    token = int(golden.tokens[step])
    return at[token] - at[chosen] if token in at and chosen in at else float("inf")
