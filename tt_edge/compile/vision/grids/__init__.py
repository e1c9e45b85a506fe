"""Vision towers for images of any size: what they read of an image's grid, and one network for all grids."""
