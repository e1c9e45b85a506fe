"""Passes for a decoder's KV cache, attention, RoPE and head."""
