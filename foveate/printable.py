"""Show text from outside on a terminal: `printable` spells control characters out instead of letting the terminal obey them."""

from __future__ import annotations

import json
import re

__all__ = ["described", "printable", "printable_json", "shortened"]

# Control characters (C0, delete, C1), line and paragraph separators, overrides of the writing direction, and lone surrogates, which
# are how Python represents the bytes of a file name that is not UTF-8.
_HIDDEN = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_ANY = re.compile(f"[{_HIDDEN}]")
_BUT_LINES = re.compile(rf"(?![\n\t])[{_HIDDEN}]")


def printable(text: object, *, lines: bool = False) -> str:
    r"""Spell out control characters, so that a file name can neither control a terminal nor fake a second line.

    Args:
        text: anything that may contain a name, a model's answer or the output of another program.
        lines: keep line ends and tabs, for text that may have several lines.

    Returns:
        the text, with "\x1b", for example, as four characters, and so for a byte such as "\xff" that is not UTF-8.
    """
    return (_BUT_LINES if lines else _ANY).sub(_spelled, str(text))


def printable_json(data: object) -> str:
    """One indented JSON document: letters of all languages stay as they are; what `printable` spells out becomes JSON escapes."""
    return _BUT_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(data, ensure_ascii=False, indent=2))


def described(value: object) -> str:
    """The type and value of anything on one line, for messages."""
    text = printable(" ".join(repr(value).split()))
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def shortened(text: str, most: int) -> str:
    """The `printable` text on one line of at most `most` characters; an ellipsis replaces the middle of a longer text."""
    text = " ".join(printable(text, lines=True).split())
    if len(text) <= most:
        return text
    front = most // 2
    return f"{text[:front]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (most - 1 - front) :]}"


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    if found[0] in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[found[0]]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that could not be decoded (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
