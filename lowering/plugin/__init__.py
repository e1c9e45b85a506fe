"""Passes that insert plugin layers."""
