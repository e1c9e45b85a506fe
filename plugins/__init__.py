"""Custom operators (schemas and reference math) and their TensorRT converters. Needs torch."""
