"""Encoders of speech of any length: how many numbers a frame has, and how many places a source becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from tt_edge.compile.seq2seq.sizes_made import check_made
from tt_edge.contract import Subsampling
from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.audio.extractors import extractor_of

#: What configurations call the numbers of a frame of features.
_WIDTHS = ("input_feat_per_channel", "feature_projection_input_dim", "num_mel_bins")
#: Most frames or samples that make one place; Wav2Vec2's 400 samples with an adapter of eight places each.
_MOST = 1 << 14
#: Places up to which the rule is checked.
_CHECKED = 9


@contextmanager
def descending_ranges() -> Iterator[None]:
    """Within the block, a range that counts down from a number of places is computed from two that count up, which have a form in
    TensorRT: distances of Parakeet's encoder."""
    own = torch.arange

    def arange(*args: Any, **kwargs: Any) -> Tensor:
        if len(args) == 3 and args[2] == -1 and isinstance(args[0], torch.SymInt):
            start, end, _ = args
            return own(start + 1, **kwargs).amax(0, keepdim=True) - own(start - end, **kwargs)
        return own(*args, **kwargs)

    with patch.object(torch, "arange", arange):
        yield


def feature_width(config: Any, name: str) -> int:
    """The numbers of a frame. Raises ``UnsupportedModelError`` where the configuration does not say."""
    found = next((getattr(config, each) for each in _WIDTHS if isinstance(getattr(config, each, None), int)), None)
    if found is None:
        raise UnsupportedModelError(
            f"the configuration of {name}'s encoder does not say how many features a frame has, under a name that tt-edge knows "
            f"({', '.join(_WIDTHS)})"
        )
    channels = getattr(config, "input_channels", 1)
    return int(found) * (int(channels) if isinstance(channels, int) else 1)


def subsampling_of(encode: Callable[[Tensor], Tensor], width: int | None, dtype: torch.dtype, name: str) -> Subsampling:
    """The rule by which ``encode`` makes places ``[1, T, H]`` of features ``[1, n, width]``, or of samples ``[1, n]``.

    It is found by running short sources, and checked at every place where it says that the number changes. Raises
    ``UnsupportedModelError`` for an encoder that has another rule.
    """

    def places(length: int) -> int:
        size = (length,) if width is None else (length, width)
        try:
            with torch.no_grad():
                return int(encode(torch.zeros(1, *size, dtype=dtype)).shape[1])
        except (RuntimeError, ValueError, IndexError):  # a convolution is longer than the source
            return 0

    def shortest(wanted: int, least: int) -> int:
        most = max(2 * least, 2)
        while places(most) < wanted:
            most *= 2
            if most > _MOST:
                raise UnsupportedModelError(
                    f"the encoder of {name} makes no {wanted} places of {most // 2} frames or samples of speech, or takes only "
                    "multiples of a number of them, which no backend has"
                )
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (least, middle) if places(middle) >= wanted else (middle, most)
        return most

    second = shortest(2, 0)
    stride = shortest(3, second) - second
    found = Subsampling(stride, 2 * stride - second)
    edges = [found.fewest(count) for count in range(1, _CHECKED + 1)]
    lengths = {n for edge in edges for n in (edge - 1, edge, edge + stride // 2) if n >= 1}
    if wrong := next((n for n in sorted(lengths) if places(n) != found.places(n)), None):
        raise UnsupportedModelError(
            f"the encoder of {name} makes {places(wrong)} places of {wrong} frames or samples, and convolutions with strides, "
            f"which tt-edge knows, would make {found.places(wrong)}"
        )
    return found


def check_extractor(settings: Mapping[str, Any], size: tuple[int | None, ...], source: str) -> None:
    """Warn where speech will be refused for the extractor's ``settings``; ``size`` is that of an encoder's source.

    Raises ``InvalidInputError``, naming the checkpoint's ``source``, for settings that are malformed or make another size.
    """
    if not settings:
        return
    check_made(
        lambda: extractor_of(settings, any_length=None in size).shape,
        size,
        source,
        what="features",
        instead="features, and no audio",
        hint=" (None is any length)",
    )
