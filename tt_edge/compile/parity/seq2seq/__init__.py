"""Comparing encoder-decoders with Hugging Face: keys and values of the source, logits and tokens."""
