"""Images as tiles of one size: one square, or several arranged in rows and columns."""
