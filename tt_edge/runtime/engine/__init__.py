"""Running a compiled network: sessions over TensorRT or the reference evaluator, and what they are fed. Torch-free."""
