"""Passes that put plugin layers in the graph."""
