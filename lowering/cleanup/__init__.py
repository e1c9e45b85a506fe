"""Passes that simplify a graph, for all backends."""
