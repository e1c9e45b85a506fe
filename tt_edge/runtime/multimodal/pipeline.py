"""Prompts with images, from text and files to what the language network takes."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tt_edge.contract import KEPT_PLACES
from tt_edge.runtime.multimodal.encoder import VisionEncoder
from tt_edge.runtime.multimodal.feature_cache import DEFAULT_BYTES, FeatureCache
from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.processor import MultimodalProcessor
from tt_edge.runtime.multimodal.prompt_images import PromptImages
from tt_edge.runtime.text.tokenizer import BundleTokenizer

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle
    from tt_edge.runtime.engine.feed_forward import FeedForward


@dataclass(frozen=True)
class VisionPipeline:
    """The multimodal processor of a bundle, and behind it the vision encoder. Thread-safe."""

    processor: MultimodalProcessor
    encoder: VisionEncoder
    _placing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        session: FeedForward,
        tokenizer: BundleTokenizer,
        *,
        scale_to_fit: bool = True,
        cache_bytes: int = DEFAULT_BYTES,
    ) -> VisionPipeline:
        """``scale_to_fit``: images of more image tokens than the network takes are scaled, not refused.

        ``cache_bytes``: host memory for features of recent images.

        Raises ``BundleError`` for a bundle without the settings that preprocessing needs.
        """
        axes, vision = bundle.manifest.contract.position_axes, session.contract
        processor = MultimodalProcessor.from_files(bundle, vision.tower, axes, vision.max_image_tokens)
        in_blocks = bundle.manifest.contract.has_blocks
        processor = dataclasses.replace(processor, scale_to_fit=scale_to_fit, in_blocks=in_blocks)
        return cls(processor, VisionEncoder(session, FeatureCache(cache_bytes)))

    def prompt_images(
        self, token_ids: Sequence[int], images: Sequence[ProcessedImage], cache_salt: str = ""
    ) -> PromptImages:
        """Place ``images`` among the tokens of their prompt, and encode those whose features are not cached for the salt."""
        features = self.encoder.encode(images, cache_salt)
        kept = features.pop(KEPT_PLACES, None)
        with self._placing:  # it hands out keys
            placed = self.processor.place(token_ids, images, kept)
        return placed.with_features(features)

    def with_exact_images(self) -> VisionPipeline:
        """The same, but images that do not fit are refused, not scaled."""
        return dataclasses.replace(self, processor=dataclasses.replace(self.processor, scale_to_fit=False))

    def close(self) -> None:
        """Release the vision network. Closing twice is harmless."""
        if self.processor.instruction is not None:
            self.processor.instruction.close()
        self.encoder.close()
