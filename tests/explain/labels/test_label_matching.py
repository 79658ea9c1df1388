"""When an answer counts as right."""

from __future__ import annotations

import pytest

from foveate.explain.labels.matching import matches, normalised


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("Red.", "red"),
        ("  the RED  circle ", "red circle"),
        ("A dog", "dog"),
        ("3,500", "3500"),
        ("it's", "It s"),
        ("ten—thirty", "ten thirty"),
        ("ﬁsh", "fish"),
        ("“jazz”", "jazz"),
        ("A", "a"),
    ],
)
def test_case_punctuation_and_articles_do_not_count(answer: str, reference: str) -> None:
    assert matches(answer, [reference], "exact")
    assert matches(reference, [answer], "exact")


@pytest.mark.parametrize(
    ("answer", "reference"), [("3.5", "35"), ("10:30", "1030"), ("-5", "5"), ("red", "blue"), ("", "red"), ("50%", "50")]
)
def test_what_belongs_to_a_number_counts(answer: str, reference: str) -> None:
    assert not matches(answer, [reference], "exact")
    assert not matches(reference, [answer], "exact")


def test_any_of_several_references_will_do() -> None:
    assert matches("blue", ["red", "Blue."], "exact")
    assert not matches("green", ["red", "Blue."], "exact")


def test_a_contained_answer_is_whole_words_side_by_side() -> None:
    assert matches("It is a dark red circle.", ["dark red"], "contains")
    assert not matches("It is a dark red circle.", ["dark red"], "exact")
    assert not matches("It is dark, nearly red.", ["dark red"], "contains")
    assert not matches("predator", ["red"], "contains")
    assert not matches("anything", ["..."], "contains")


def test_a_text_of_articles_alone_keeps_them() -> None:
    assert normalised("A.") == "a"
    assert not matches("the", ["a"], "exact")
