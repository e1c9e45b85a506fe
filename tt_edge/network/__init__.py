"""The captured TensorRT network: its representation, its file format, rebuilding it, and evaluating it. Torch-free."""
