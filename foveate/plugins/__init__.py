"""Foveate inside other programs; each plugin is thin and imports its program only when that program runs."""
