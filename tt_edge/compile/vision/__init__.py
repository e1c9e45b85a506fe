"""Vision-language models: where their parts are, and how each part is compiled to its own network."""
