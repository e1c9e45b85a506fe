"""The class of BLIP's parts, joined."""

from __future__ import annotations

from transformers import VisionEncoderDecoderModel


class BlipCaptioner(VisionEncoderDecoderModel):  # type: ignore[misc]
    """BLIP's vision model and its text decoder."""
