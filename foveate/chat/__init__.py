"""Asking a model: load it by name, build its prompt, answer, and count its visual tokens."""

NO_METHOD = "none"
"""What asks for the full model where a method is named."""
