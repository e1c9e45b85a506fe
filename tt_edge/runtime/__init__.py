"""Running a bundle: sessions, generation, tokenizer and chat template. Torch-free."""
