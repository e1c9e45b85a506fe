"""Custom operators (``ops``), their TensorRT converters, and contracts of NVIDIA's plugins (``edgellm``, torch-free)."""
