"""Passes for encoder-decoder models."""
