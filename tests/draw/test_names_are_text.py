"""Names of tasks, methods, models and files are text wherever they are shown: on the page, in charts, on the terminal, in pictures."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from results_made_up import TASKS, analysis, evaluation, facts, speed

from foveate import draw
from foveate.cli import console
from foveate.cli.bench.tables import comparison_table, tables_of
from foveate.cli.eval.tables import comparison_table as evaluation_comparison
from foveate.cli.eval.tables import evaluation_table
from foveate.draw import information_loss
from foveate.draw.charts import Point, against_tokens, radar, svg
from foveate.explain.relevance.result import ImageRelevance, Relevance
from foveate.measure.bench.records import Run
from foveate.measure.evaluation.comparison import Comparison
from foveate.measure.reporting.inputs import read_inputs
from foveate.measure.reporting.page import page
from foveate.plan import Plan
from foveate.printable import printable, shortened
from foveate.recipe import card
from foveate.report import ImageReport, Report, Stage

NAMES = (
    "<b>x</b>", 'a"b', "a\\b", "\\g<0>", "$x$", "[/bold]", "_under", "</svg>", "<!-- a", "mean", "\x1b[31mb", "",
    "\u05e9\u05dc\u05d5\u05dd", "a" * 500,
    "[bold]", ":smile:", "a'b", "\\1", "$\\frac{1}{2}$", "a&amp;b", "]]>", "{{ 7 * 7 }}", "%s {0}", "a|b",
    "radar0", "a b/c#d", "\u202eabc", "a\nb",
)  # fmt: skip
PAGED = NAMES[:14]
PLAIN = tuple(f"plain{number}" for number in range(len(PAGED)))


class Reader(HTMLParser):
    """The page's own elements without what is in its pictures, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.open: list[str] = []
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if "svg" not in self.open:
            self.elements.append((tag, tuple(name for name, _ in attrs)))
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            if name in ("href", "xlink:href", "clip-path"):
                self.targets += re.findall(r"#([^)]*)", value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "svg" not in self.open:
            self.words.append(data)


def renamed(folder: Path, tasks: Sequence[str], methods: Sequence[str]) -> Path:
    """An evaluation of tasks, and of methods at one budget, that are called so."""
    path = evaluation(folder) / "results.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    made, means = data["results"], data["mean"]
    settings = {**{name: made[name] for name in ("full", "blind")}, **{f"{name}-64": made["tokencarve-64"] for name in methods}}
    data["results"] = {name: dict.fromkeys(tasks, found[TASKS[0]]) for name, found in settings.items()}
    data["mean"] = {name: means.get(name, means["tokencarve-64"]) for name in settings}
    data["tasks"] = {task: {"name": task} for task in tasks}
    data["command"], data["settings"]["model"], data["facts"]["processor"] = tasks[0], tasks[1], methods[0]
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def timed(path: Path, names: Sequence[str]) -> Path:
    """Results of `foveate bench` with rows that are called so."""
    run = Run.load(speed(path))
    (group,) = run.groups
    rows = [replace(group.rows[2], name=f"{name}(keep={64 + number})") for number, name in enumerate(names)]
    failed = replace(group.rows[2], name="failed", failed=names[0])
    group.rows = [*group.rows[:2], *rows, failed]
    run.save(path)
    return path


def analysed(folder: Path, names: Sequence[str]) -> Path:
    """Results of `foveate analyse` of methods that are called so."""
    path = analysis(folder) / "information_loss.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in data["cells"] if cell["method"] == "norm"]
    data["cells"] = [{**cell, "method": name} for name in names for cell in cells]
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def made(folder: Path, names: Sequence[str]) -> Reader:
    """The page of an evaluation, a measurement of speed and an analysis in which everything is called so."""
    folder.mkdir()
    evaluated = renamed(folder / names[0].replace("/", " "), names, names[5:8])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the charts' font has no Hebrew
        text = page(read_inputs([evaluated, timed(folder / "bench.json", names), analysed(folder / "b", names)]))
    reader = Reader(text)
    reader.feed(text)
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A page full of odd names."""
    return made(tmp_path_factory.mktemp("odd") / "page", PAGED)


def test_odd_names_make_no_other_elements_than_plain_ones(odd: Reader, tmp_path: Path) -> None:
    assert odd.elements == made(tmp_path / "page", PLAIN).elements


def test_identifiers_are_plain_and_differ_and_every_link_has_its_target(odd: Reader) -> None:
    assert len(odd.ids) == len(set(odd.ids)) > 100
    assert all(re.fullmatch(r"[A-Za-z][\w.:-]*", name, re.ASCII) for name in odd.ids)
    assert odd.targets
    assert set(odd.targets) <= set(odd.ids)


def test_every_picture_of_a_page_is_xml(odd: Reader) -> None:
    pictures = re.findall(r"<svg.*?</svg>", odd.text, re.DOTALL)
    assert len(pictures) == sum(element == "figure" for element, _ in odd.elements)
    for picture in pictures:
        ElementTree.fromstring(picture)


def test_names_are_read_on_the_page_as_they_are(odd: Reader) -> None:
    for name in PAGED:
        assert printable(f"{name}: 20 questions", lines=True) in odd.words
    for name in PAGED[5:8]:
        assert f"{name}-64" in odd.words
    assert "\x1b" not in odd.text


@pytest.mark.parametrize("name", NAMES)
def test_a_chart_draws_a_name_as_it_is(name: str) -> None:
    lines = {name: [Point(64, 0.5), Point(0, 0.25)]}
    for figure in (against_tokens(lines, None, None, name, name), radar({name: [0.5, None, 1.0]}, [name, "b", "c"], name)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")
            found = ElementTree.fromstring(svg(figure, name, "none"))
        if name == "$x$":
            assert sum(text.text == "$x$" for text in found.iter("{http://www.w3.org/2000/svg}text")) >= 2
        if name == "_under":
            assert any(text.text == "_under" for text in found.iter("{http://www.w3.org/2000/svg}text"))


def test_a_task_that_only_the_blind_model_has_finished_has_a_page(tmp_path: Path) -> None:
    path = evaluation(tmp_path) / "results.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["results"], data["mean"] = {"blind": data["results"]["blind"]}, {"blind": data["mean"]["blind"]}
    path.write_text(json.dumps(data), encoding="utf-8")
    assert "blind" in page(read_inputs([path]))


def test_the_terminal_shows_names_without_reading_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = [name for name in NAMES if name.isprintable() and 0 < len(name) < 30]
    run = Run.load(timed(tmp_path / "bench.json", shown))
    data = json.loads(renamed(tmp_path / "eval", shown, shown).read_text(encoding="utf-8"))
    compared = [Comparison(name, name, name, 1, 0.0, 0.0, 0.0, 1.0, 0, 0, None) for name in shown]
    tables = {
        "evaluation": evaluation_table(data),
        "comparison": evaluation_comparison(compared),
        **{f"bench {number}": table for number, table in enumerate(tables_of(run.groups[0], [1]))},
        "files": comparison_table([(run.groups[0], row, run.groups[0], row) for row in run.groups[0].rows], (shown[0], shown[1])),
        "listing": console.listing(shown, [shown]),
    }
    for what, table in tables.items():
        console.put_table(table, wide=True)
        found = capsys.readouterr().out
        expected = shown[:2] if what == "listing" else shown
        assert [name for name in expected if name not in found] == [], what


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_drawn_with_any_name(name: str) -> None:
    plan = Plan.from_list([0, 0, 2, -1])
    picture = Image.new("RGB", (40, 40), "green")
    report = Report((ImageReport(0, 0, (1, 2, 2), plan, (Stage(name, 2, plan),)),))
    assert draw.kept(report, picture).width > 0
    found = Relevance((ImageRelevance(0, 0, (1, 2, 2), torch.ones(2, 4)),), (torch.tensor([1, 2]),))
    words = [draw.Word(name, (0,)), draw.Word(name, (1,))]
    assert draw.relevance(found, picture, words, question=name, answer=name).width > 0


def test_a_chart_of_an_analysis_takes_any_name(tmp_path: Path) -> None:
    data = json.loads(analysed(tmp_path, NAMES[:4]).read_text(encoding="utf-8"))
    text = io.StringIO()
    information_loss.draw(data).savefig(text, format="svg")
    ElementTree.fromstring(text.getvalue())


@pytest.mark.parametrize("name", NAMES)
def test_a_name_keeps_to_its_cell_of_a_markdown_table(name: str) -> None:
    score = {name: {"right": 1, "count": 2, "low": 0.1, "high": 0.9}}
    figures: dict[str, Any] = {"full": score, "without_image": {}, "cut": {}, "chance": {}, "recall": {}}
    _, rule, row = card._table(figures)
    assert len(re.findall(r"(?<!\\)\|", row.replace("\\\\", ""))) == rule.count("|")
    assert "\n" not in row
    assert "<b>" not in row


def test_what_acts_is_replaced_and_what_is_long_is_shortened() -> None:
    assert printable("a\x1b[31m\x00\x9bb\n\tc", lines=True) == r"a\x1b[31m\x00\x9bb" + "\n\tc"
    assert printable("\u202ea\u2066") == r"\u202ea\u2066"
    assert printable("\ud800") == r"\ud800"
    assert printable("\u05e9\u05dc\u05d5\u05dd $x$ <b>") == "\u05e9\u05dc\u05d5\u05dd $x$ <b>"
    assert shortened("a" * 9, 9) == "a" * 9
    assert shortened("0123456789", 5) == "01\u202689"
    assert len(shortened("x" * 999, 60)) == 60
    assert facts()["processor"] in shortened(facts()["processor"], 60)
