"""Foveate inside other people's programs; each plugin is thin, and imports its program only when that runs."""
