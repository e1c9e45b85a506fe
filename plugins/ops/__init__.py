"""Semantic and backend operators, as PyTorch math on any device."""
