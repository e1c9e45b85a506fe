"""Images of prompts: preprocessing, placement and encoding. Torch-free."""
