"""Answers: bodies in OpenAI's form, whole or streamed."""
