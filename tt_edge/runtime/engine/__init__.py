"""Running a compiled network: sessions over TensorRT or the reference evaluator, and their inputs. Torch-free."""
