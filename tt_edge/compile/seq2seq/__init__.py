"""Compiling encoder-decoder models: text to text, speech to text, page to text."""
