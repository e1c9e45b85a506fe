"""Tiny models of the real transformers classes, checkpoints of them, and a stand-in for an engine."""
