"""Passes that give a decoder its KV cache, attention, RoPE and head."""
