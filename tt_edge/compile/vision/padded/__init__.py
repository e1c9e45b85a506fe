"""Towers whose tiles may be partly padding, which they are told: Phi-4-multimodal, Idefics 2, Kosmos-2.5."""
