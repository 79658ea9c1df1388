"""The text that belongs to an image of a chat: what stands before it, and the question of its turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foveate.families.kit.layout import MediaKind

__all__ = ["Turn", "answer_marker", "turns"]


@dataclass(frozen=True)
class Turn:
    """The tokens around one image, without those of other images.

    Attributes:
        before: token ids from the start of the prompt to the image.
        after: token ids from the image to the point where the first answer to it begins.
        question: how many of the last ones of `after` follow the last image of that turn: the question tokens.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    question: int


def turns(prompt: Sequence[int], placeholders: Mapping[int, MediaKind], marker: Sequence[int]) -> dict[MediaKind, list[Turn]]:
    """The turn of every image and video of a prompt, in order.

    A later turn of the chat is no part of it, so that the choice, and with it the prefix in the key/value cache, stays the same when the
    chat continues.

    Args:
        prompt: token ids, one placeholder for each image.
        placeholders: the token ids of placeholders, with what they stand for.
        marker: token ids that begin an answer; empty if the template has none, and then a turn ends with the prompt.
    """
    found: dict[MediaKind, list[Turn]] = {kind: [] for kind in placeholders.values()}
    ends = _ends(prompt, marker)
    before: list[int] = []
    for place, token in enumerate(prompt):
        kind = placeholders.get(token)
        if kind is None:
            before.append(token)
            continue
        end = next((end for end in ends if end > place), len(prompt))
        rest = prompt[place + 1 : end]
        last = max((index for index, each in enumerate(rest) if each in placeholders), default=-1)
        after = tuple(each for each in rest if each not in placeholders)
        found[kind].append(Turn(tuple(before), after, len(rest) - last - 1))
    return found


def _ends(prompt: Sequence[int], marker: Sequence[int]) -> list[int]:
    """Where the markers of a prompt end, ascending."""
    wanted, length = list(marker), len(marker)
    if not length:
        return []
    return [start + length for start in range(len(prompt) - length + 1) if list(prompt[start : start + length]) == wanted]


def answer_marker(tokenizer: Any, template: str | None = None) -> tuple[int, ...]:
    """The token ids that a chat template writes where an answer is to begin; none if there is no template, or if it writes nothing.

    Args:
        tokenizer: of transformers.
        template: the chat template; `None` for the tokenizer's own.
    """
    chats: list[list[dict[str, Any]]] = [[{"role": "user", "content": text}] for text in ("x", [{"type": "text", "text": "x"}])]
    for chat in chats:
        try:
            without, added = (
                tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=begin)
                for begin in (False, True)
            )
        except Exception:
            continue
        if not added.startswith(without) or "x" not in added:
            continue
        # Tokens depend on what stands before them, so both texts are encoded whole.
        whole, start = (tokenizer.encode(text, add_special_tokens=False) for text in (added, without))
        same = next(
            (index for index, pair in enumerate(zip(whole, start, strict=False)) if pair[0] != pair[1]), min(len(whole), len(start))
        )
        if whole[same:]:
            return tuple(whole[same:])
    return ()
