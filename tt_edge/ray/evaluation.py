"""A bundle whose items are answered on a Ray cluster. Its files have the same path on every machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tt_edge.bundle import Bundle
from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.bundle_model import BundleModel, identity_of
from tt_edge.evaluation.requests import Answer, Item
from tt_edge.ray.cluster import Cluster
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.multimodal.sources import SizedImage, Video, VideoFile


@dataclass(frozen=True)
class Loading:
    """What a worker loads; ``identity`` is ``identity_of`` the bundle that it must find."""

    path: str
    runtime: str
    require_signature: str | None
    identity: str


class RayModel:
    """Answers as ``BundleModel`` does, to the last bit: a task is one of its groups.

    ``local`` is the same bundle here, which encodes prompts and answers nothing. A task has one GPU if ``runtime`` is
    ``tensorrt``, or ``auto`` and the cluster has some.
    """

    def __init__(self, cluster: Cluster, local: BundleModel, loading: Loading) -> None:
        self._cluster, self._local, self._loading = cluster, local, loading
        self._gpus = int(loading.runtime == "tensorrt" or (loading.runtime == "auto" and cluster.gpus > 0))

    @cached_property
    def word(self) -> str:
        """As the first worker says; the others must agree."""
        (word,) = self._cluster.results(_word, [[self._loading]], gpus=self._gpus)
        return str(word)

    @property
    def key(self) -> str:
        return f"{self._loading.identity} {self.word}"

    def check(self, items: Sequence[Item]) -> None:
        self._local.check(items)

    def answers(self, items: Sequence[Item]) -> Iterator[tuple[Item, Answer]]:
        """Raises ``InvalidInputError`` for a machine with another bundle, or one that computes in another way."""
        by_id = {item.id: item for item in items}
        calls = ([self._loading, self.word, [_packed(item) for item in group]] for group in self._local.groups(items))
        for answers in self._cluster.results(_answers, calls, gpus=self._gpus):
            for name, answer in answers.items():
                yield by_id[name], answer


def _word(loading: Loading) -> str:
    return _opened(loading).word


def _answers(loading: Loading, word: str, items: Sequence[Item]) -> dict[str, Answer]:
    model = _opened(loading)
    if model.word != word:
        raise InvalidInputError(
            f"{loading.path} on {socket.gethostname()} is {model.word}, and {word} on another machine; give --runtime"
        )
    return {item.id: answer for item, answer in model.answers(items)}


@lru_cache(maxsize=1)
def _opened(loading: Loading) -> BundleModel:
    """The bundle, opened once by each worker process."""
    bundle = Bundle.open(loading.path, loading.require_signature)
    if identity_of(bundle) != loading.identity:
        raise InvalidInputError(
            f"{loading.path} on {socket.gethostname()} is another bundle than here; copy the same one to all machines"
        )
    return BundleModel(LLM.load(loading.path, loading.runtime, loading.require_signature), loading.identity)


def _packed(item: Item) -> Item:
    """``item`` with the content of its image files, which the worker need not have."""
    return replace(item, ask=replace(item.ask, images=tuple(map(_content, item.ask.images))))


def _content(image: Any) -> Any:
    if isinstance(image, SizedImage):
        return replace(image, image=_content(image.image))
    if isinstance(image, Video):
        return replace(image, frames=tuple(map(_content, image.frames)))
    if isinstance(image, VideoFile):
        return replace(image, file=_content(image.file))
    if isinstance(image, os.PathLike) and Path(image).is_file():
        return Path(image).read_bytes()
    return image
