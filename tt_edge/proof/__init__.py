"""Proof on the device, without PyTorch: golden answers that travel in the bundle, and the search for a layer that is wrong.

``golden`` is what the host stores, ``replay`` runs a session on it, ``evidence`` records the outcome, ``on_device`` does all that
with the engines of a machine. Where it fails, ``bisect`` builds debugging engines with few outputs marked and names the first
layer that parts from the reference evaluation; ``precision`` compares the types of an engine's layers with those asked for.
"""
