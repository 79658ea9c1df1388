"""Calling processors, tokenizers and chat templates, which come with a checkpoint and may fail or not end."""

from foveate.processors.bounded import Bounds
from foveate.processors.calls import chat_texts, encode, make_inputs

__all__ = ["Bounds", "chat_texts", "encode", "make_inputs"]
