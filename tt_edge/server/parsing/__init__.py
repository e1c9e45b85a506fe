"""Requests: bodies read within limits, parsed in a process of their own, and checked field by field."""
