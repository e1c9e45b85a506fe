"""Text in and out: tokenizer, chat templates, streaming, conversations. Torch-free."""
