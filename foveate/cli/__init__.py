"""The command line. It imports PyTorch and transformers only in the commands that need them, so that help comes at once."""

from foveate.cli.app import app, main

__all__ = ["app", "main"]
