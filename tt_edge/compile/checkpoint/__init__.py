"""Reading Hugging Face checkpoints: weights, quantized or not, tokenizer and processor files."""
