"""Names from files and command lines, made fit to be shown: nothing in them acts on a page, a chart or a terminal."""

from __future__ import annotations

import unicodedata

__all__ = ["legible", "shortened"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Signs that turn the direction of what follows, beyond the name's own end."""


def legible(text: str) -> str:
    """The text with a replacement character for every sign that acts and does not show, line breaks and tabs aside.

    These are control characters (escape sequences of terminals begin with one), halves of surrogate pairs, and marks that turn the
    direction of writing. Letters of scripts that run from right to left stay.
    """
    if text.isprintable():
        return text
    return "".join(_REPLACEMENT if _acts(sign) else sign for sign in text)


def shortened(text: str, most: int) -> str:
    """The text on one line of at most `most` characters, `legible`, with an ellipsis for its middle where it is longer."""
    text = " ".join(legible(text).split())
    if len(text) <= most:
        return text
    front = most // 2
    return f"{text[:front]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (most - 1 - front) :]}"


def _acts(sign: str) -> bool:
    return sign in _DIRECTIONS or (unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t")
