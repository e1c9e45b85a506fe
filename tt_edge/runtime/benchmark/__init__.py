"""Timing and accuracy: of a loaded bundle, and of any server with OpenAI's endpoints. Torch-free."""
