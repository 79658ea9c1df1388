"""Decide whether an answer is correct: `matches`, with the normalisation of question-answering benchmarks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

__all__ = ["Match", "matches", "normalised"]

Match = Literal["exact", "contains"]
"""Whether the whole answer must equal a reference, or must contain the words of one in a row."""

_ARTICLES = {"a", "an", "the"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_IN_NUMBERS = re.compile(r"(?<=\d)[.,:/](?=\d)|(?<!\w)-(?=\d)")


def normalised(text: str) -> str:
    """Lower case, single spaces, no articles, no punctuation except percent signs and what belongs to a number.

    A text of articles alone keeps them: "A" may be the right choice among several.
    """
    text = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold())
    numeric = {mark.start() for mark in _IN_NUMBERS.finditer(text)}
    kept = (
        character if index in numeric or character == "%" or not unicodedata.category(character).startswith("P") else " "
        for index, character in enumerate(text)
    )
    words = "".join(kept).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def matches(answer: str, references: Iterable[str], how: Match) -> bool:
    """Whether an answer is one of the acceptable ones, or contains one.

    Args:
        answer: the model's answer.
        references: the acceptable answers.
        how: see `Match`.
    """
    said = normalised(answer)
    wanted = [normalised(reference) for reference in references]
    if how == "exact":
        return said in wanted
    return any(reference and f" {reference} " in f" {said} " for reference in wanted)
