"""The sources of a golden set, of an encoder-decoder: encoding them, and the call that does. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tt_edge.contract import PAGE_PIXELS, QUESTION_IDS, SOURCE_IDS, SOURCE_LENGTHS, Feeds, IOContract
from tt_edge.proof.golden import GoldenFeatures
from tt_edge.runtime.engine.feed_forward import FeedForward
from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
from tt_edge.runtime.seq2seq.source import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The name of the one table of features of a source.
CROSS = "keys and values"


def fits(pipeline: SourcePipeline, given: Mapping[str, np.ndarray], vocabulary: int) -> bool:
    """Whether a source has what the encoder takes, and only token ids below ``vocabulary`` (an image's places are no tokens)."""
    if given.keys() != {spec.name for spec in pipeline.encoder.contract.inputs} - {SOURCE_LENGTHS}:
        return False
    ids = given[SOURCE_IDS][pipeline.image_places :] if pipeline.takes_text else np.zeros(1, np.int64)
    return ids.ndim == 1 and len(ids) > 0 and int(ids.max()) < vocabulary


def encode(pipeline: SourcePipeline, given: Mapping[str, np.ndarray]) -> Source:
    """Encode a source, without a batch, by the names of the encoder's inputs; an image stands before its text."""
    if len(given) > 1:
        question = given.get(QUESTION_IDS, np.zeros(0, np.int64)).tolist()
        return pipeline.image_text(given[PAGE_PIXELS], given[SOURCE_IDS][pipeline.image_places :].tolist(), question)
    (source,) = given.values()
    return pipeline.source(source)


def joined(cross: Sequence[np.ndarray], length: int) -> NDArray[np.float32]:
    """Keys and values ``[H, T, D]`` of all layers as ``[length, 2 * layers * H * D]``."""
    return np.concatenate(
        [np.asarray(t[:, :length], np.float32).transpose(1, 0, 2).reshape(length, -1) for t in cross], axis=1
    )


def cross_features(cross: Sequence[np.ndarray]) -> GoldenFeatures:
    """The sketch of keys and values ``[H, T, D]``."""
    return GoldenFeatures.of(joined(cross, cross[0].shape[1]))


def error_of(source: Source, expected: GoldenFeatures) -> float:
    """Relative L2 error of the keys and values of an encoded ``source``; infinite for another number of places."""
    if source.length != len(expected.norms):
        return float("inf")
    return expected.error_of(joined(list(source.on_host().values()), source.length))


class _Recorder(FeedForward):
    """Keeps what an encoder would be given."""

    def __init__(self, contract: IOContract) -> None:
        super().__init__(contract)
        self.feeds: Feeds = {}

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        self.feeds = {name: np.array(array) for name, array in feeds.items()}
        return {}


def feeds_of(pipeline: SourcePipeline, given: Mapping[str, np.ndarray]) -> Feeds:
    """The inputs of the call that encodes a source."""
    recorder = _Recorder(pipeline.encoder.contract)
    encode(SourcePipeline(recorder, pipeline.start), given)
    return recorder.feeds
