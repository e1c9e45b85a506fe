"""Architectures whose own code is in the checkpoint, not in transformers: built from parts of transformers."""
