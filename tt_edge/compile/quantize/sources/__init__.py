"""Calibrating encoder-decoders: sources, and answers to them."""
