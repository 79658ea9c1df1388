"""Calling processors, tokenizers and chat templates, which come with a checkpoint and may fail or never return."""

from foveate.chat.processors.bounded import Bounds
from foveate.chat.processors.calls import chat_texts, check_tokens, encode, make_inputs, refusals_of

__all__ = ["Bounds", "chat_texts", "check_tokens", "encode", "make_inputs", "refusals_of"]
