"""The one place that calls processors, tokenizers and chat templates: what they raise becomes a one-line error that names them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.chat.processors.bounded import Bounds, OverBoundsError, WorkError, run_bounded
from foveate.errors import FoveateError, ProcessorError

__all__ = ["chat_texts", "check_tokens", "encode", "make_inputs", "refusals_of"]

_BOUNDS = Bounds()
_LONGEST_REASON = 300
_LONGEST_TEMPLATE = 2**20
"""Characters; the longest published templates have some ten thousand."""


def chat_texts(processor: Any, conversations: Sequence[Sequence[Mapping[str, Any]]], bounds: Bounds | None = None) -> list[str]:
    """Conversations as a processor's chat template writes them, each up to where an answer begins.

    A template is a program that comes with the checkpoint. It runs in a process of its own, with a limit on time and memory.

    Args:
        processor: with a chat template.
        conversations: messages, as templates take them.
        bounds: limits for all of them together.

    Raises:
        ProcessorError: the template fails or exceeds its limits.
    """
    whose = f"the chat template of this model's {type(processor).__name__}"
    template = getattr(processor, "chat_template", None)
    if isinstance(template, str) and len(template) > _LONGEST_TEMPLATE:
        raise ProcessorError(f"{whose} has {len(template)} characters, more than {_LONGEST_TEMPLATE}; it is no chat template")
    try:
        texts = run_bounded(
            lambda: [
                processor.apply_chat_template(list(conversation), add_generation_prompt=True, tokenize=False)
                for conversation in conversations
            ],
            bounds or _BOUNDS,
        )
    except OverBoundsError as error:
        raise ProcessorError(f"{whose} was stopped: it takes more than {error}; correct it (chat_template.jinja)") from error
    except WorkError as error:
        raise ProcessorError(f"{whose} fails on {_messages(conversations)}: {error}") from error
    if not all(isinstance(text, str) for text in texts):
        raise ProcessorError(f"{whose} gives {type(texts[0]).__name__} where text belongs")
    return list(texts)


def make_inputs(processor: Any, texts: Sequence[str], **given: Any) -> Any:
    """The keyword arguments of a model's forward pass, as tensors on the CPU.

    Args:
        processor: of the model.
        texts: prompts, which may already contain the first token.
        given: images, videos and options, as the processor takes them.

    Raises:
        ProcessorError: naming the processor and what it was given.
    """
    start = getattr(getattr(processor, "tokenizer", processor), "bos_token", None)
    # some templates write the first token themselves, and the tokenizer would add it again
    own_start = start is not None and all(text.startswith(start) for text in texts)
    options: dict[str, Any] = {"add_special_tokens": False} if own_start else {}
    with _naming(processor, lambda: _described(texts, given)):
        return processor(text=list(texts), return_tensors="pt", **options, **given)


def encode(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text, without special tokens around it.

    Raises:
        ProcessorError: naming the tokenizer and the text.
    """
    with _naming(tokenizer, lambda: f"the text {text[:40]!r}"):
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def check_tokens(model: Any, processor: Any, ids: Any, placeholders: Sequence[int]) -> None:
    """Refuse a prompt that uses another vocabulary than the model's, or another placeholder for an image.

    Args:
        model: that will read it.
        processor: that made it.
        ids: (b, n) tokens.
        placeholders: tokens that stand for images and videos by the model's configuration.

    Raises:
        ProcessorError: naming the token.
    """
    whose, embeddings = f"this model's {type(processor).__name__}", model.get_input_embeddings()
    highest, rows = int(ids.max()), None if embeddings is None else int(embeddings.weight.shape[0])
    if rows is not None and highest >= rows:
        raise ProcessorError(f"{whose} writes token {highest}, and the model knows 0 to {rows - 1} only; they do not belong together")
    own = getattr(processor, "image_token_id", None)
    strange = isinstance(own, int) and own not in placeholders and bool((ids == own).any())
    if strange or not any(bool((ids == placeholder).any()) for placeholder in placeholders):
        known = " or ".join(map(str, placeholders))
        found = f"token {own}" if strange else "no such token"
        raise ProcessorError(
            f"by its configuration, token {known} stands for an image in this model, but its {type(processor).__name__} writes {found} "
            f"there; they do not belong together"
        )


@contextmanager
def refusals_of(model: Any) -> Iterator[None]:
    """Turn errors that a model's own code raises about its inputs into one line; errors from elsewhere pass.

    Raises:
        ProcessorError: naming the model's class and what it said.
    """
    import torch

    try:
        yield
    except (FoveateError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if "transformers" not in Path(frames[-1].filename).parts:
            raise
        raise ProcessorError(
            f"this {type(model).__name__} refuses what its processor made: {_text(error)}; they do not belong together"
        ) from error


@contextmanager
def _naming(called: Any, what: Any) -> Iterator[None]:
    import torch

    try:
        yield
    except (FoveateError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # processors are code by many authors and raise anything
        raise ProcessorError(f"this model's {type(called).__name__} fails on {what()}: {_text(error)}") from error


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_REASON]}"


def _messages(conversations: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    roles = [str(message.get("role")) for message in conversations[0]]
    return f"a conversation of {len(roles)} message(s) ({', '.join(roles[:4])})"


def _described(texts: Sequence[str], given: Mapping[str, Any]) -> str:
    """What a processor was given, in words."""
    pictures = list(_pictures(given.get("images")))
    videos = list(given.get("videos") or ())
    parts = [f"{len(texts)} text(s) of up to {max(map(len, texts), default=0)} characters"]
    if pictures:
        parts.append(f"{len(pictures)} image(s) such as {pictures[0].width} x {pictures[0].height} pixels")
    if videos:
        parts.append(f"{len(videos)} video(s) of up to {max(map(len, videos))} frames")
    return " with ".join([parts[0], " and ".join(parts[1:])]) if len(parts) > 1 else parts[0]


def _pictures(images: Any) -> Iterator[Image.Image]:
    if isinstance(images, Image.Image):
        yield images
    elif isinstance(images, list | tuple):
        for image in images:
            yield from _pictures(image)
