"""Images that a decoder sees by cross-attention (Llama 3.2 Vision): preprocessing, and which tokens see which tiles."""
