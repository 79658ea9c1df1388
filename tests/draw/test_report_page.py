"""The page of `foveate report`: what is on it, that it needs nothing else, and what it refuses."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from results_made_up import analysis, evaluation, speed

from foveate.errors import InputError
from foveate.measure.reporting.inputs import differences, read_inputs
from foveate.measure.reporting.page import page

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Reader(HTMLParser):
    """Checks that tags close in order, and collects what a test wants to see."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th", "caption", "code"):
            self.cells.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of one evaluation, one measurement of speed and one analysis of the same model."""
    folder = tmp_path_factory.mktemp("runs")
    evaluation(folder / "eval")
    speed(folder / "eval" / "bench.json")
    analysis(folder / "analyse")
    return page(read_inputs([folder / "eval", folder / "analyse"]))


def test_every_result_has_its_pictures_and_tables(everything: str) -> None:
    reader = read(everything)
    captions = [attributes["aria-label"] or "" for tag, attributes in reader.tags if attributes.get("role") == "img"]
    for task in ("scenes", "pope", "textvqa"):
        assert any(caption.startswith(f"{task}: score") for caption in captions)
        assert any(caption.startswith(f"{task} against the time of a prefill") for caption in captions)
        assert f"{task}: 20 questions" in reader.cells
    assert sum("keep=64" in caption for caption in captions) == 1  # the radar
    assert sum(caption.startswith("Effective rank") for caption in captions) == 4
    assert any("key/value bytes" in caption for caption in captions)
    assert sum(tag == "svg" for tag, _ in reader.tags) == len(captions)


def test_figures_of_the_tables_are_those_of_the_files(everything: str) -> None:
    cells = read(everything).cells
    at = cells.index("tokencarve-64")
    assert cells[at + 1 : at + 4] == ["80.0", "58.4 to 91.9", "88.9 %"]  # 16 of 20, Wilson, 0.8 / 0.9
    at = cells.index("TokenCarve(keep=64)")
    assert cells[at + 1 : at + 4] == ["64", "50.0 ms", "41.0 ms"]
    assert "foveate bench --model demo" in cells


def test_the_page_needs_nothing_from_anywhere(everything: str) -> None:
    reader = read(everything)
    assert not [tag for tag, _ in reader.tags if tag in ("script", "link", "img", "iframe", "object")]
    for _, attributes in reader.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action"):
                assert (value or "").startswith("#")
    styles = "".join(re.findall(r"<style[^>]*>(.*?)</style>", everything, re.DOTALL))
    assert "@import" not in styles
    assert "http" not in styles


def test_the_page_fits_a_phone_and_both_schemes(everything: str) -> None:
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in everything
    assert "prefers-color-scheme: dark" in everything
    around = re.findall(r'<div class="(\w+)"[^>]*><table', everything)
    assert around
    assert set(around) == {"scroll"}


def test_what_files_say_is_text_and_no_markup(everything: str) -> None:
    assert "a &lt;b&gt;processor&lt;/b&gt;" in everything


def test_results_of_one_model_and_the_same_questions_belong_together(everything: str) -> None:
    assert "mixes results" not in everything


def test_another_model_is_refused_and_with_mixed_said_on_the_page(tmp_path: Path) -> None:
    inputs = read_inputs([evaluation(tmp_path / "eval"), speed(tmp_path / "bench.json", fingerprint="b" * 64)])
    with pytest.raises(InputError, match=r"aaaaaaaa.*bbbbbbbb.*mixed=True"):
        page(inputs)
    text = page(inputs, mixed=True)
    assert "mixes results" in text
    assert "bbbbbbbb" in text
    assert "against the time of a prefill" not in text  # one model's accuracy against another's time would be meaningless


def test_other_questions_are_refused(tmp_path: Path) -> None:
    inputs = read_inputs([evaluation(tmp_path / "one"), evaluation(tmp_path / "two", data="d2")])
    with pytest.raises(InputError, match=r"foveate_pope: one/results\.json and two/results\.json are about different questions"):
        page(inputs)
    inputs = read_inputs([analysis(tmp_path / "three"), analysis(tmp_path / "four", questions="q2")])
    assert differences(inputs) == [
        "held-out scenes: three/information_loss.json and four/information_loss.json are about different questions"
    ]


def test_a_file_that_is_named_twice_is_shown_once(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "eval")
    assert len(read_inputs([folder, folder / "results.json"])) == 1


@pytest.mark.parametrize("text", ["{}", "[1]", "{", '{"format": 1}'])
def test_files_that_hold_no_results_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_inputs([path])


def test_a_folder_without_results_and_a_path_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"information_loss\.json"):
        read_inputs([tmp_path])
    with pytest.raises(InputError, match="no such file"):
        read_inputs([tmp_path / "nowhere"])
