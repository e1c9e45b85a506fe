"""Passes for vision towers."""
