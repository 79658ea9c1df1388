"""Names and answers from outside are shown with their control characters spelled out."""

from __future__ import annotations

import json
import os

import pytest

from foveate import errors
from foveate.printable import printable, printable_json

pytestmark = pytest.mark.one_version

CASES = {
    "a plain name.png": "a plain name.png",
    "naïve café 图片 \U0001f600": "naïve café 图片 \U0001f600",
    "a\x1b[31mred": "a\\x1b[31mred",
    "bell\x07, back\x08, delete\x7f": "bell\\x07, back\\x08, delete\\x7f",
    "C1: \x9b31m": "C1: \\x9b31m",
    "two\nlines\r\n\tand a tab": "two\\nlines\\r\\n\\tand a tab",
    "gnp.\u202egpj": "gnp.\\u202egpj",
    "line\u2028separator": "line\\u2028separator",
    "isolated \u2066text\u2069": "isolated \\u2066text\\u2069",
    os.fsdecode(b"caf\xe9.png"): "caf\\xe9.png",
    "\ud800": "\\ud800",
}


@pytest.mark.parametrize(("text", "shown"), CASES.items())
def test_control_characters_are_spelled_out_and_letters_are_not(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode()


def test_text_of_several_lines_keeps_them() -> None:
    assert printable("one\n\ttwo\x1b[0m\n", lines=True) == "one\n\ttwo\\x1b[0m\n"


@pytest.mark.parametrize("kind", [kind for name in errors.__all__ if issubclass(kind := getattr(errors, name), errors.FoveateError)])
def test_every_error_is_one_printable_line(kind: type[errors.FoveateError]) -> None:
    error = kind("no such file: a\x1b[31m\nerror: b")
    assert str(error) == "no such file: a\\x1b[31m\\nerror: b"
    assert str(kind(f"cannot go on: {error}")) == f"cannot go on: {error}"  # nothing is spelled out twice


@pytest.mark.parametrize("text", CASES)
def test_json_holds_the_same_text_in_printable_characters(text: str) -> None:
    document = printable_json({"name": [text]})
    assert printable(document, lines=True) == document
    assert json.loads(document) == {"name": [text]}
