"""The captured TensorRT network: its form, its file format, rebuilding it, and evaluating it. Torch-free."""
