"""Hugging Face's model with dropped image tokens: the reference of bundles that keep a part of them.

The rule is written again here, on the features that transformers returns, and the model itself is run with the features of the
kept tokens at their positions. Where tokens are equally far from the mean up to rounding, the network's choice counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import accumulate, pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tt_edge.compile.vision.families import has_grids
from tt_edge.compile.vision.grids.found import patch_inputs_of
from tt_edge.contract import kept_tokens

#: How much nearer to the mean than the last kept token, in parts of its distance, a token may be that a network keeps instead.
TIE = 0.02


def kept_by_rule(features: Tensor, keep: float) -> Tensor:
    """Places, in order, of the kept ones among the ``features`` ``[T, hidden]`` of one frame or tile."""
    return _furthest(_distances(features), keep).sort().values


def _distances(features: Tensor) -> Tensor:
    numbers = features.double()
    distances: Tensor = torch.linalg.vector_norm(numbers - numbers.mean(0), dim=1)
    return distances


def _furthest(distances: Tensor, keep: float) -> Tensor:
    return distances.argsort(descending=True, stable=True)[: kept_tokens(keep, len(distances))]


def follows_rule(features: Tensor, keep: float, places: Tensor) -> bool:
    """Whether ``places`` are those that the rule keeps, up to ties."""
    distances = _distances(features)
    last = distances[_furthest(distances, keep)[-1]]
    return len(places) == kept_tokens(keep, len(features)) and bool((distances[places] >= (1 - TIE) * last).all())


@contextmanager
def pruned_model(
    model: Any, keep: float, places: Sequence[NDArray[np.int32]], sizes: Sequence[Sequence[int]]
) -> Iterator[None]:
    """Within the block, ``model`` takes prompts with the kept tokens of images only, with one prompt's images a call.

    ``places`` are those that the network kept of each image, and ``sizes`` how many tokens each frame or tile of each image has
    (``ProcessedImage.groups``). Features of a frame or tile for which they do not follow the rule are those that the rule keeps.
    """
    if has_grids(model):
        patch_inputs_of(model)  # found by running it as it is
    inner = model.model if hasattr(getattr(model, "model", None), "get_image_features") else model
    whole, rope = inner.get_image_features, getattr(inner, "get_rope_index", None)
    chosen = [torch.from_numpy(np.asarray(own, np.int64)) for own in places]
    counts, of_groups = [sum(own) for own in sizes], [size for own in sizes for size in own]

    @wraps(whole)  # generate() reads its signature
    def features(*args: Any, **kwargs: Any) -> Any:
        out = whole(*args, **kwargs)
        tables: Any = out.pooler_output  # of all images, of each, or of all of a prompt
        joined = tables if isinstance(tables, Tensor) else torch.cat([each.flatten(0, -2) for each in tables])
        groups = torch.split(joined.flatten(0, -2), of_groups)
        own = _by_group(chosen, counts, of_groups)
        kept = [
            where if follows_rule(group, keep, where) else kept_by_rule(group, keep)
            for group, where in zip(groups, own, strict=True)
        ]
        cut = [group[where] for group, where in zip(groups, kept, strict=True)]
        out.pooler_output = torch.stack(cut) if isinstance(tables, Tensor) and tables.ndim == 3 else (torch.cat(cut),)
        if getattr(out, "deepstack_features", None):
            out.deepstack_features = [_cut(table, groups, kept) for table in out.deepstack_features]
        return out

    def positions(input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Those of the prompt with all tokens, of which the dropped ones are taken out. One row."""
        token = model.config.image_token_id
        ids, there = _whole(input_ids[0], token, chosen, counts)
        kwargs["mm_token_type_ids"] = (ids == token).int()[None]
        kwargs["attention_mask"] = torch.ones_like(ids)[None]
        assert rope is not None
        found, _ = rope(ids[None], *args, **kwargs)
        found = found[..., there]
        return found, found.amax((0, 2))[:, None] + 1 - input_ids.shape[1]

    with patch.object(inner, "get_image_features", features):
        if rope is None:
            yield
        else:
            with patch.object(inner, "get_rope_index", positions):
                yield


def _by_group(chosen: Sequence[Tensor], counts: Sequence[int], sizes: Sequence[int]) -> list[Tensor]:
    """The chosen places of each frame or tile, of the images one after the other."""
    every = torch.cat([own + first for own, first in zip(chosen, _starts(counts), strict=True)])
    starts = [*_starts(sizes), sum(sizes)]
    return [every[(every >= first) & (every < last)] - first for first, last in pairwise(starts)]


def _cut(table: Any, groups: Sequence[Tensor], kept: Sequence[Tensor]) -> Any:
    """The kept rows of a table of all images, or of one for each."""
    every = torch.cat(
        [where + first for where, first in zip(kept, _starts([len(group) for group in groups]), strict=True)]
    )
    return table[every] if isinstance(table, Tensor) else (torch.cat(list(table))[every],)


def _starts(sizes: Sequence[int]) -> list[int]:
    return [0, *accumulate(sizes)][:-1]


def _whole(ids: Tensor, token: int, places: Sequence[Tensor], counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """``ids`` with every image as long as it is, and which of them are there."""
    found, there, at = [], [], 0
    images = list(zip(places, counts, strict=True))
    while at < len(ids):
        if int(ids[at]) == token and images:
            own, count = images.pop(0)
            found.append(torch.full((count,), token))
            there.append(torch.zeros(count, dtype=torch.bool).index_fill(0, own, True))
            at += len(own)
        else:
            found.append(ids[at : at + 1])
            there.append(torch.ones(1, dtype=torch.bool))
            at += 1
    return torch.cat(found), torch.cat(there)
