"""Charts show what they were given, and names do not overlap."""

from __future__ import annotations

import itertools
import re

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from foveate.draw.charts import Point, against_time, against_tokens, radar, svg
from foveate.draw.palette import Label, look, name_lines, style
from foveate.methods import methods

pytestmark = pytest.mark.one_version

LINES = {
    "tokencarve": [Point(128, 82, 78, 86), Point(32, 77, 72, 82)],
    "random": [Point(128, 67, 61, 73), Point(32, 48, 42, 54)],
}
FULL = Point(576, 84, 80, 88)


def names(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def line_of(figure: Figure, name: str) -> list[tuple[float, float]]:
    return next([*zip(*line.get_data(), strict=True)] for line in figure.axes[0].lines if line.get_color() == style(name).colour)


def test_each_method_and_both_references_are_named_at_their_lines() -> None:
    figure = against_tokens(LINES, FULL, 3.0, "scenes", "right, %")
    assert sorted(names(figure)) == ["Random", "TokenCarve", "all 576", "no picture"]
    assert figure.axes[0].get_legend() is None


def test_points_stand_at_their_tokens_and_scores_with_fewer_tokens_at_the_right() -> None:
    figure = against_tokens(LINES, FULL, None, "scenes", "right, %")
    assert line_of(figure, "random") == [(128, 67), (32, 48)]
    left, right = figure.axes[0].get_xlim()
    assert left > 576 > 32 > right
    # the outline of the band between the bounds of each interval
    band = figure.axes[0].collections[0].get_paths()[0].vertices.tolist()
    assert all(corner in band for corner in ([128.0, 78.0], [128.0, 86.0], [32.0, 72.0], [32.0, 82.0]))


def test_a_score_without_an_interval_has_no_band() -> None:
    figure = against_tokens({"pool": [Point(64, 50), Point(32, 40)]}, None, None, "scenes", "score")
    assert not figure.axes[0].collections


def test_names_that_would_meet_are_moved_apart() -> None:
    with look():
        figure = Figure(figsize=(4, 3))
        axes = figure.subplots()
        axes.set(xlim=(0, 1), ylim=(0, 100))
        name_lines(axes, [Label(0.5, 50 + step / 10, f"method {step}", "black") for step in range(5)])
    figure.canvas.draw()
    points_to_pixels = figure.dpi / 72
    centres = sorted(axes.transData.transform(text.xy)[1] + text.xyann[1] * points_to_pixels for text in axes.texts)
    height = Text.get_window_extent(axes.texts[0]).height
    assert all(upper - lower >= height for lower, upper in itertools.pairwise(centres))


def test_the_front_holds_what_nothing_beats_in_time_and_score() -> None:
    lines = {"tokencarve": [Point(20, 82), Point(30, 70)], "pool": [Point(10, 50)]}
    figure = against_time(lines, Point(50, 84), "scenes", "right, %")
    front = figure.axes[0].lines[0]
    assert [*zip(*front.get_data(), strict=True)] == [(10, 50), (20, 82), (50, 84)]


def test_a_radar_has_one_spoke_for_each_task_and_a_closed_line_for_each_method() -> None:
    figure = radar({"tokencarve": [0.9, 0.8, 1.0], "pool": [0.5, None, 0.7]}, ["POPE", "MME", "TextVQA"], "128 tokens")
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["POPE", "MME", "TextVQA"]
    line = next(line for line in axes.lines if line.get_color() == style("tokencarve").colour)
    assert list(line.get_ydata()) == [90, 80, 100, 90]


def test_a_radar_of_two_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="3 spokes"):
        radar({"pool": [1.0, 1.0]}, ["a", "b"], "")


def test_two_figures_on_one_page_share_no_identifier() -> None:
    figures = [svg(against_tokens(LINES, FULL, 3.0, "scenes", "%"), name) for name in ("one", "two")]
    first, second = (set(re.findall(r'\bid="([^"]+)"', text)) for text in figures)
    assert first
    assert not first & second
    for text, there in zip(figures, (first, second), strict=True):
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
        assert {one or other for one, other in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)} <= there


def test_a_figure_is_the_same_whenever_it_is_drawn() -> None:
    assert svg(against_tokens(LINES, FULL, 3.0, "scenes", "%"), "x") == svg(against_tokens(LINES, FULL, 3.0, "scenes", "%"), "x")


def test_methods_differ_in_colour_and_mark_whatever_their_spelling() -> None:
    styles = {name: style(name) for name in (*methods(), "norm")}
    assert len({each.mark for each in styles.values()}) == len(styles)
    assert len({each.colour for each in styles.values()}) == len(styles)
    assert style("TokenCarve(keep=128)") == style("tokencarve")
    assert style("first-layer-attention") == style("FirstLayerAttention")
    assert style("my own") == style("my own")


def test_method_colours_can_be_seen_on_white() -> None:
    for name in methods():
        red, green, blue = to_rgb(style(name).colour)
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75


def test_a_single_budget_shows_its_interval_as_a_bar() -> None:
    figure = against_tokens({"FastV": [Point(64, 50.0, 40.0, 60.0)]}, Point(576, 80.0), None, "scenes", "score, %")
    spans = [sorted(float(y) for y in line.get_ydata()) for line in figure.axes[0].lines]
    assert [40.0, 60.0] in spans
