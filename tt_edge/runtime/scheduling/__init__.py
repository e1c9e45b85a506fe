"""Requests on the batch slots of a session: queueing, sampling, prefix reuse. Torch-free."""
