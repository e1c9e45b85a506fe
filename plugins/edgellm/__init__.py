"""NVIDIA TensorRT-Edge-LLM's AttentionPlugin: its contracts (torch-free), our operator for it, and its converter."""
