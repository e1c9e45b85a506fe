"""Converters of our operators to TensorRT layers."""
