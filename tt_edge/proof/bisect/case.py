"""The one call that a search looks into: the part, its network, and the inputs of the first step that is wrong. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tt_edge.contract import CONTEXT_PROFILE, GENERATION_PROFILE, GENERATION_TOKENS, Feeds, IOContract
from tt_edge.errors import InvalidInputError
from tt_edge.network.ir import Network
from tt_edge.proof.golden import GoldenSet
from tt_edge.proof.replay import Replay, RowResult, attend_to, prompt_images, teacher_forced
from tt_edge.proof.sources import encode, feeds_of
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.engine.session import Logits
from tt_edge.runtime.multimodal.vision_inputs import vision_inputs

if TYPE_CHECKING:
    from tt_edge.runtime.multimodal.pipeline import VisionPipeline
    from tt_edge.runtime.seq2seq.pipeline import SourcePipeline


@dataclass(frozen=True, eq=False)
class Case:
    """A call of ``network`` with ``feeds``, for every input of it, KV caches included. ``results`` are the outputs that count;
    ``profile`` is the optimization profile that a session takes. ``text`` says which call it is."""

    part: str
    network: Network
    contract: IOContract
    feeds: Mapping[str, np.ndarray]
    results: tuple[str, ...]
    profile: int
    text: str


def decoder_case(
    part: str,
    network: Network,
    contract: IOContract,
    golden: GoldenSet,
    row: RowResult,
    vision: VisionPipeline | None,
    pipeline: SourcePipeline | None = None,
) -> Case:
    """The first step of ``row``'s batch that is wrong, with the caches that the reference evaluation has before it.

    ``vision`` is the reference's, of a vision-language model, and ``pipeline`` of an encoder-decoder.
    """
    step = row.first_wrong_step or 0
    batch = golden.batches[row.batch]
    prompts = [golden.prompts[index] for index in batch]
    session = _Recorder(network, contract, step, batch.index(row.prompt))
    images = [prompt_images(prompt, golden, vision) for prompt in prompts]
    tokens = [prompt.tokens[: step + 1].tolist() for prompt in prompts]
    if pipeline is not None:
        attend_to(session, prompts, [encode(pipeline, source.inputs) for source in golden.sources])
    teacher_forced(session, [prompt.ids.tolist() for prompt in prompts], images, tokens)
    width = session.recorded["input_ids"].shape[1]
    generation = width <= GENERATION_TOKENS and len(contract.profiles()) > 1
    what = f"the prefill of {width} tokens" if step == 0 else f"decode step {step}"
    return Case(
        part,
        network,
        contract,
        session.recorded,
        ("logits",),
        GENERATION_PROFILE if generation else CONTEXT_PROFILE,
        f"{what}, {len(session.recorded['input_ids'])} in the batch",
    )


def vision_case(
    part: str, network: Network, contract: IOContract, golden: GoldenSet, image: int, vision: VisionPipeline
) -> Case:
    """The call that encodes one golden image."""
    feeds, _ = vision_inputs(contract, [vision.processor.preprocess(golden.images[image].pixels)])
    return Case(part, network, contract, feeds, tuple(network.outputs), CONTEXT_PROFILE, f"image {image}")


def encoder_case(
    part: str, network: Network, contract: IOContract, golden: GoldenSet, source: int, pipeline: SourcePipeline
) -> Case:
    """The call that encodes one golden source."""
    feeds = feeds_of(pipeline, golden.sources[source].inputs)
    return Case(part, network, contract, feeds, tuple(network.outputs), CONTEXT_PROFILE, f"source {source}")


def first_failure(result: Replay) -> RowResult:
    """The row to look into: the first that fails in the smallest batch, where the least can be to blame.

    Raises ``InvalidInputError`` for a replay that matches.
    """
    bad = [row for row in result.rows if row.first_wrong_step is not None]
    if not bad:
        raise InvalidInputError("nothing is wrong, so there is no layer to look for; omit --bisect")
    sizes = [sum(other.batch == row.batch for other in result.rows) for row in bad]
    return bad[sizes.index(min(sizes))]


class _Recorder(ReferenceSession):
    """Keeps the inputs of the step number ``wanted`` that the batch slot ``slot`` takes part in."""

    def __init__(self, network: Network, contract: IOContract, wanted: int, slot: int) -> None:
        super().__init__(network, contract)
        self._wanted, self._slot, self._done = wanted, slot, 0
        self.recorded: dict[str, np.ndarray] = {}

    def _execute(self, feeds: Feeds, rows: slice) -> np.ndarray:
        if self._done == self._wanted and rows.start <= self._slot < rows.stop:
            self.recorded = {name: np.array(array) for name, array in self.inputs(feeds, rows).items()}
        return super()._execute(feeds, rows)

    def forward(self, *args: Any, **options: Any) -> Logits:
        logits = super().forward(*args, **options)
        self._done += 1
        return logits
