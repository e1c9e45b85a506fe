"""Triton Inference Server: a model repository of a bundle, and the model that it runs. Torch-free."""
