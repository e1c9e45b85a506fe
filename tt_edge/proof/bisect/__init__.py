"""The search for a layer that an engine computes wrongly. Torch-free."""
