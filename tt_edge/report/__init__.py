"""What a bundle is, for people: its facts, a page with plots, and its network as a graph. Torch-free."""
