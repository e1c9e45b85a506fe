"""DeepSeek-VL with two towers: a large square of an image, and a small one made of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.errors import BundleError
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.resize import normalize
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings, resampling
from tt_edge.runtime.multimodal.images.tiled.square import SquareProcessor

#: What the settings of the large square are called before.
_HIGH = "high_res_"


@dataclass(frozen=True)
class TwoSizesProcessor:
    """As ``DeepseekVLHybridImageProcessor``: ``small`` is made of the pixels of ``large``."""

    large: SquareProcessor
    small: SquareProcessor

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed, or give other sizes than the network takes."""
        geometry = settings.geometry
        own = {name.removeprefix(_HIGH): value for name, value in settings.image.items() if name.startswith(_HIGH)}
        if geometry.high_res_size is None:
            raise BundleError(
                "the vision network takes images in one size, and the image processor makes two; compile again"
            )
        with settings.reading():
            resampling(settings.image, f"{_HIGH}resample")  # an error names it as the file does
        of_large = replace(
            settings,
            image={**settings.image, **own},
            geometry=replace(geometry, tile_size=geometry.high_res_size),
        )
        return cls(SquareProcessor.within_square(of_large), SquareProcessor.within_square(settings))

    @property
    def placeholders(self) -> Placeholders:
        """How images stand in a prompt."""
        return self.small.placeholders

    @property
    def std(self) -> tuple[float, ...]:
        """What pixels of the small square are divided by."""
        return self.small.std

    @property
    def high_res_std(self) -> tuple[float, ...]:
        """Likewise of the large square."""
        return self.large.std

    @property
    def most_tiles(self) -> int:
        """One: the image."""
        return 1

    def tokens_of(self, size: tuple[int, int], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """As many for every image. Raises ``InvalidInputError`` for one that is much longer than wide."""
        return self.large.tokens_of(size, options, max_tokens)

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``. Raises as ``tokens_of`` does."""
        self.tokens_of((image.shape[0], image.shape[1]), options)
        large = self.large.cut(image)
        high_res = normalize(large, self.large.mean, self.large.std)[None]
        return replace(self.small.process(large), high_res=high_res)
