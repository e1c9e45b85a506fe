"""CUDA kernels of tt-edge: sources, how they are compiled, and the library from Python. See docs/explanation/plugins.md."""
