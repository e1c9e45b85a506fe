"""A checkpoint's own processor: how it prepares images and videos, how it writes them in a prompt, and whether tt-edge does too."""
