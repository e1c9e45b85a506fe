"""Tracing Hugging Face modules with torch.export, attention and RoPE kept whole."""
