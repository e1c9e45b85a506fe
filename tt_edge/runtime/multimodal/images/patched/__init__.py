"""Images of nearly their own size as grids of patches."""
