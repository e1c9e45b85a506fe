"""Running encoder-decoder models: sources, and what a decoder begins with."""
