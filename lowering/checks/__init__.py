"""Passes that check a graph and change nothing."""
