"""Vision-language models whose decoder sees images by cross-attention: Llama 3.2 Vision."""
