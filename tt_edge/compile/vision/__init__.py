"""Vision-language models: where their parts are, and how each part becomes a network of its own."""
