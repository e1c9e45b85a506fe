"""Passes that tidy a graph for any backend."""
