"""Asking a model: load it by name, build its prompt, answer, and count its visual tokens."""
