"""Timing and accuracy of a loaded bundle. Torch-free."""
